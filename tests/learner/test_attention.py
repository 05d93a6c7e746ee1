import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AttentionInterface

from areal.broker.errors import ModelError
from areal.learner import attention
from areal.learner.attention import PACKED, Segments, packed_attention

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


def segments_of(*lengths: int) -> Segments:
    return Segments.of(torch.tensor([0, *lengths]).cumsum(0))


def qkv(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as a transformers layer makes them: [1, H, N, D] views of [1, N, H·D]."""
    generator = torch.Generator().manual_seed(0)

    def made(heads: int) -> Tensor:
        flat = torch.randn(1, num_tokens, heads * HEAD_DIM, generator=generator)
        return flat.view(1, num_tokens, heads, HEAD_DIM).transpose(1, 2).requires_grad_()

    return made(HEADS), made(KV_HEADS), made(KV_HEADS)


def by_the_formula(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float) -> Tensor:
    """[1, N, H, D], each segment alone, with a mask and a softmax."""
    key, value = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1) for tensor in (key, value))
    outputs = []
    for q, k, v in zip(*(torch.split(tensor, list(lengths), dim=2) for tensor in (query, key, value)), strict=True):
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(2, 3) * scaling).masked_fill(future, -torch.inf)
        outputs.append(scores.softmax(-1) @ v)
    return torch.cat(outputs, dim=2).transpose(1, 2)


@pytest.mark.parametrize(
    "lengths",
    [(5,), (1,), (6, 6, 6), (3, 9), (9, 3), (1, 40, 2, 38, 39, 5, 1, 4), (7, 8, 7, 8)],
    ids=lambda lengths: "+".join(map(str, lengths)),
)
def test_equals_the_formula_and_so_do_its_gradients(lengths: tuple[int, ...]) -> None:
    inputs, weight = qkv(sum(lengths)), torch.randn(1, sum(lengths), HEADS, HEAD_DIM)
    expected = by_the_formula(*inputs, lengths, scaling=0.3)
    found, weights = packed_attention(nn.Identity(), *inputs, None, scaling=0.3, segments=segments_of(*lengths))
    assert weights is None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), inputs), wanted, rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_every_token_has_one_row_and_the_pads_are_bounded(lengths: list[int]) -> None:
    segments = segments_of(*lengths)
    num_rows = sum(count * width for count, width in segments.buckets)
    assert len(segments.row_token) == num_rows == sum(lengths) + len(segments.pads)
    assert segments.row_token[segments.token_row].tolist() == list(range(sum(lengths)))
    assert set(segments.token_row.tolist()).isdisjoint(segments.pads.tolist())
    assert sum(count for count, _ in segments.buckets) == len(lengths)
    assert num_rows <= sum(lengths) / attention.SHORTEST_IN_BUCKET
    assert segments.max_length == max(lengths)
    assert not segments.in_order or segments.row_token.tolist() == list(range(sum(lengths)))


def test_equal_segments_are_not_moved() -> None:
    assert segments_of(4, 4, 4).in_order
    assert not segments_of(4, 5).in_order


def test_buckets_pinned_by_hand() -> None:
    segments = segments_of(3, 8, 6, 2)
    assert segments.buckets == ((2, 8), (1, 3), (1, 2))  # 6 ≥ 3/4·8, 3 < 3/4·8, 2 < 3/4·3
    assert segments.row_token.tolist() == [*range(3, 11), *range(11, 17), 0, 0, 0, 1, 2, 17, 18]
    assert segments.pads.tolist() == [14, 15]


@pytest.mark.parametrize("cu_lengths", [[0], [0, 3, 3], [0, 3, 2], [1, 3]])
def test_refuses_lengths_that_do_not_rise(cu_lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not rise"):
        Segments.of(torch.tensor(cu_lengths))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": None}, "no segments"),
        ({"softcap": 50.0}, "softcap"),
        ({"s_aux": torch.zeros(HEADS)}, "s_aux"),
        ({"is_causal": False}, "not causal"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        packed_attention(nn.Identity(), *qkv(5), None, **({"segments": segments_of(5)} | options))  # type: ignore[arg-type]


def test_a_window_no_shorter_than_the_segments_is_plain_attention() -> None:
    inputs, segments = qkv(8), segments_of(5, 3)
    windowed = packed_attention(nn.Identity(), *inputs, None, segments=segments, sliding_window=5)[0]
    torch.testing.assert_close(windowed, packed_attention(nn.Identity(), *inputs, None, segments=segments)[0])


@pytest.mark.parametrize("window", [1, 3, 4, 8])
def test_a_window_shorter_than_the_segments_equals_the_formula(window: int) -> None:
    lengths = (9, 2, 12)
    inputs, segments = qkv(sum(lengths)), segments_of(*lengths)
    query, key, value = (tensor[0] for tensor in inputs)
    key, value = (tensor.repeat_interleave(len(query) // len(key), dim=0) for tensor in (key, value))
    expected = torch.empty(sum(lengths), *query.shape[::2])
    for first, last in zip((0, 9, 11), (9, 11, 23), strict=True):
        for row in range(first, last):
            since = max(first, row - window + 1)
            scores = torch.einsum("hd,hkd->hk", query[:, row], key[:, since : row + 1]) * 0.3
            expected[row] = torch.einsum("hk,hkd->hd", scores.softmax(dim=-1), value[:, since : row + 1])
    found, _ = packed_attention(nn.Identity(), *inputs, None, scaling=0.3, segments=segments, sliding_window=window)
    torch.testing.assert_close(found[0], expected)


def test_is_registered_without_a_mask() -> None:
    from transformers.masking_utils import AttentionMaskInterface

    assert PACKED in AttentionInterface().valid_keys()
    assert PACKED not in AttentionMaskInterface().valid_keys()


@pytest.mark.skipif(not attention.HAS_FLASH, reason="this torch has no variable-length attention")
def test_flash_is_called_as_its_signature_says() -> None:
    """Traced with tensors that hold no numbers: shapes and arguments are checked, no GPU is needed."""
    segments = segments_of(3, 5)
    query, key, value = (tensor[0].transpose(0, 1).to("meta", torch.bfloat16) for tensor in qkv(8))
    assert attention._flash(query, key, value, segments, attention.Reach(0.3, 4)).shape == (8, HEADS, HEAD_DIM)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equals_the_formula_on_a_gpu(dtype: torch.dtype) -> None:
    lengths = tuple(np.random.default_rng(0).integers(1, 90, 20).tolist())
    inputs, segments = qkv(sum(lengths)), Segments.of(torch.tensor([0, *lengths]).cumsum(0).cuda())
    expected = by_the_formula(*inputs, lengths, scaling=0.3)
    moved = [tensor.detach().to("cuda", dtype).requires_grad_() for tensor in inputs]
    found, _ = packed_attention(nn.Identity(), *moved, None, scaling=0.3, segments=segments)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    grads = [grad.float().cpu() for grad in torch.autograd.grad(found.float().square().sum(), moved)]
    torch.testing.assert_close(tuple(grads), wanted, rtol=5e-2, atol=5e-2)
