"""Causal attention over packed segments, as the transformers implementation "areal_packed".

A model built with `attn_implementation=PACKED` takes `segments=Segments.of(cu_lengths)` in its forward call and hands
it down to every attention layer. No mask is ever made (transformers makes none for an implementation that registers
none), and the cost is that of the segments, not of the square of their sum:

    CUDA, 16 bit   torch's variable-length flash attention
    elsewhere      segments of about the same length share a right-padded SDPA call; under a causal mask no valid
                   row sees a pad to its right, so pads need no mask either

Legend: N tokens of the packed batch, S segments, P rows of the buckets (tokens and pads), H heads, D their size.
"""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ..broker.errors import ModelError

try:
    from torch.nn.attention.varlen import varlen_attn

    HAS_FLASH = "enable_gqa" in signature(varlen_attn).parameters
except ImportError:
    HAS_FLASH = False

PACKED = "areal_packed"

SHORTEST_IN_BUCKET = 0.75
"""A bucket takes segments down to this share of its longest. Lower wastes rows on pads, higher makes more calls."""

UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cache")
"""What a layer may ask of attention that this implementation does not compute."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the segments of a packed batch lie; made once a batch, read by every layer.

    cu_lengths  int32[S+1], where each segment starts, and N
    max_length  of the longest segment
    buckets     (segments, width) of each bucket; P = Σ segments·width
    row_token   int64[P], the token in each row of the buckets; any token in a pad
    token_row   int64[N], the row that holds each token
    pads        int64[P−N], the rows that hold no token
    in_order    whether row i holds token i, for all i
    """

    cu_lengths: Tensor
    max_length: int
    buckets: tuple[tuple[int, int], ...]
    row_token: Tensor
    token_row: Tensor
    pads: Tensor
    in_order: bool

    @classmethod
    def of(cls, cu_lengths: Tensor) -> "Segments":
        """The segments that start at these tokens, the last entry being N."""
        starts = cu_lengths.cpu().numpy().astype(np.int64)
        lengths_S = np.diff(starts)
        if len(lengths_S) == 0 or starts[0] != 0 or lengths_S.min() < 1:
            raise ValueError(f"cu_lengths {starts.tolist()} do not rise from 0")
        order_S = np.argsort(-lengths_S, kind="stable")
        buckets = _buckets(lengths_S[order_S].tolist())
        width_S = np.repeat([width for _, width in buckets], [count for count, _ in buckets])
        segment_P = np.repeat(order_S, width_S)
        offset_P = np.arange(len(segment_P)) - np.repeat(np.cumsum(width_S) - width_S, width_S)
        valid_P = offset_P < lengths_S[segment_P]
        token_P = np.where(valid_P, starts[segment_P] + offset_P, 0)
        row_N = np.empty(starts[-1], np.int64)
        row_N[token_P[valid_P]] = np.flatnonzero(valid_P)
        arrays = (token_P, row_N, np.flatnonzero(~valid_P))
        row_token, token_row, pads = (torch.from_numpy(array).to(cu_lengths.device) for array in arrays)
        in_order = bool(valid_P.all() and (np.diff(token_P) == 1).all())
        return cls(cu_lengths.to(torch.int32), int(lengths_S.max()), buckets, row_token, token_row, pads, in_order)


def _buckets(falling_lengths_S: list[int]) -> tuple[tuple[int, int], ...]:
    """(segments, width) of each bucket of consecutive segments."""
    buckets: list[tuple[int, int]] = []
    for length in falling_lengths_S:
        if buckets and length >= SHORTEST_IN_BUCKET * buckets[-1][1]:
            buckets[-1] = (buckets[-1][0] + 1, buckets[-1][1])
        else:
            buckets.append((1, length))
    return tuple(buckets)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[1, N, H, D], causal attention inside each segment; called by the layers of a transformers model.

    query [1, H, N, D], key and value [1, H_kv, N, D], with H a multiple of H_kv. In a layer with a sliding window a token
    sees itself and the `sliding_window` − 1 before it.
    """
    if segments is None:
        raise ModelError(f"{type(module).__name__} got no segments: the model does not hand them down to its attention")
    wanted = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if attention_mask is not None or dropout or kwargs.get("is_causal") is False:
        wanted.append("a mask, dropout or attention that is not causal")
    if wanted:
        raise ModelError(f"{type(module).__name__} wants {', '.join(wanted)}, which packed attention does not compute")
    query_NHD, key_NHD, value_NHD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    window = sliding_window if sliding_window is not None and sliding_window < segments.max_length else None
    reach = Reach(scaling, window)
    attend = _flash if _flash_fits(query_NHD, value_NHD) else _bucketed
    return attend(query_NHD, key_NHD, value_NHD, segments, reach)[None], None


@dataclass(frozen=True, slots=True)
class Reach:
    """What a layer's attention is scaled by, and how many tokens a token sees, itself included; None for all."""

    scaling: float | None
    window: int | None


def _bucketed(query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, segments: Segments, reach: Reach) -> Tensor:
    """[N, H, D], bucket by bucket."""
    num_rows = [count * width for count, width in segments.buckets]
    packed = [torch.split(_to_rows(tensor, segments), num_rows) for tensor in (query_NHD, key_NHD, value_NHD)]
    outputs = []
    for (count, width), *qkv in zip(segments.buckets, *packed, strict=True):
        query, key, value = (tensor.unflatten(0, (count, width)).transpose(1, 2) for tensor in qkv)
        output = _attend(query, key, value, reach)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    rows_PHD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return _to_tokens(rows_PHD, segments)


def _attend(query: Tensor, key: Tensor, value: Tensor, reach: Reach) -> Tensor:
    """[count, H, width, D], causal; with a window a block of queries at a time, against the keys that any of them sees."""
    grouped, width, window = query.shape[1] != key.shape[1], query.shape[2], reach.window
    if window is None or width <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=reach.scaling, enable_gqa=grouped)
    outputs = []
    for first in range(0, width, window):
        since, last = max(0, first - window + 1), min(first + window, width)
        back = torch.arange(first, last, device=query.device)[:, None] - torch.arange(since, last, device=query.device)
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, first:last],
                key[:, :, since:last],
                value[:, :, since:last],
                attn_mask=(back >= 0) & (back < window),
                scale=reach.scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(outputs, dim=2)


def _to_rows(tokens_N: Tensor, segments: Segments) -> Tensor:
    if segments.in_order:
        return tokens_N
    return _Rearrange.apply(tokens_N, segments.row_token, segments.token_row, None)  # type: ignore[no-any-return,no-untyped-call]


def _to_tokens(rows_P: Tensor, segments: Segments) -> Tensor:
    if segments.in_order:
        return rows_P
    return _Rearrange.apply(rows_P, segments.token_row, segments.row_token, segments.pads)  # type: ignore[no-any-return,no-untyped-call]


class _Rearrange(torch.autograd.Function):
    """source[index], whose gradient is gradient[inverse] instead of a scatter: each token has one row, pads have none.

    `blank` are the source's rows that nothing reads; their gradient is 0. (Ten times as fast on a CPU as the
    gradient of index_select, which must allow for rows that are read twice.)
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, index: Tensor, inverse: Tensor, blank: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, blank)
        return source.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, blank = ctx.saved_tensors
        gradient = gradient.index_select(0, inverse)
        return (gradient if blank is None else gradient.index_fill_(0, blank, 0.0)), None, None, None


def _flash_fits(query_NHD: Tensor, value_NHD: Tensor) -> bool:
    head_dim = query_NHD.shape[-1]
    return (
        HAS_FLASH
        and query_NHD.is_cuda
        and query_NHD.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(query_NHD.device) >= (8, 0)
        and value_NHD.shape[-1] == head_dim <= 256
        and head_dim % 8 == 0
    )


def _flash(query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, segments: Segments, reach: Reach) -> Tensor:
    """[N, H, D], in one kernel."""
    lengths = (segments.cu_lengths, segments.cu_lengths, segments.max_length, segments.max_length)
    output = varlen_attn(
        query_NHD,
        key_NHD,
        value_NHD,
        *lengths,
        scale=reach.scaling,
        window_size=(-1 if reach.window is None else reach.window - 1, 0),
        enable_gqa=query_NHD.shape[1] != key_NHD.shape[1],
    )
    assert isinstance(output, Tensor)
    return output


# a compiled layer calls it as it is: what it does depends on the batch, and would be compiled anew for each
AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
