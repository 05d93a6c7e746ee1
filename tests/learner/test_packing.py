import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal.broker.trajectory import NOT_AN_ACTION, TokenTrajectory
from areal.learner.packing import pack, split_by_tokens


def trajectory(tokens: list[int], versions: list[int]) -> TokenTrajectory:
    logprobs = [
        0.0 if version == NOT_AN_ACTION else -token / 100 for token, version in zip(tokens, versions, strict=True)
    ]
    return TokenTrajectory(
        np.array(tokens, np.int32), np.array(versions, np.int32), np.array(logprobs, np.float32), reward=0.0
    )


@st.composite
def trajectories(draw: st.DrawFn) -> TokenTrajectory:
    versions = [-1, *draw(st.lists(st.integers(-1, 5), max_size=8)), draw(st.integers(0, 5))]
    tokens = draw(st.lists(st.integers(0, 99), min_size=len(versions), max_size=len(versions)))
    return trajectory(tokens, versions)


def test_pinned_by_hand() -> None:
    batch = pack([trajectory([5, 6, 7], [-1, -1, 2]), trajectory([8, 9, 10, 11], [-1, 3, -1, 4])])
    assert batch.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.cu_lengths.tolist() == [0, 3, 7]
    assert batch.predict_index.tolist() == [1, 3, 5]
    assert batch.action_tokens.tolist() == [7, 9, 11]
    assert batch.segment_ids.tolist() == [0, 1, 1]
    assert (batch.num_segments, batch.num_actions) == (2, 3)
    assert {batch.tokens.dtype, batch.positions.dtype, batch.predict_index.dtype} == {torch.int64}


@given(st.lists(trajectories(), min_size=1, max_size=6))
def test_every_action_is_found_again(packed: list[TokenTrajectory]) -> None:
    batch = pack(packed)
    for segment, source in enumerate(packed):
        start, end = batch.cu_lengths[segment : segment + 2].tolist()
        assert batch.tokens[start:end].tolist() == source.tokens.tolist()
        assert batch.positions[start:end].tolist() == list(range(len(source.tokens)))
        mine = batch.segment_ids == segment
        assert (batch.predict_index[mine] - start + 1).tolist() == np.flatnonzero(source.action_mask).tolist()
        assert batch.action_tokens[mine].tolist() == source.tokens[source.action_mask].tolist()


def test_to_moves_every_tensor() -> None:
    batch = pack([trajectory([1, 2], [-1, 0])]).to("meta")
    assert batch.tokens.device.type == batch.segment_ids.device.type == "meta"


def test_refuses_an_action_that_nothing_predicts() -> None:
    """A first token: no trajectory has one, but an array under one can be changed."""
    second = trajectory([1, 2], [-1, 0])
    second.versions[0] = 0
    with pytest.raises(ValueError, match="first token of trajectory 1"):
        pack([trajectory([1, 2], [-1, 0]), second])


def test_refuses_no_trajectory() -> None:
    with pytest.raises(ValueError, match="no trajectory"):
        pack([])


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 100))
def test_split_keeps_the_budget_and_every_index_once(lengths: list[int], budget: int) -> None:
    split = split_by_tokens(lengths, budget)
    assert sorted(index for bin_ in split for index in bin_) == list(range(len(lengths)))
    for bin_ in split:
        assert bin_ == sorted(bin_)
        assert sum(lengths[index] for index in bin_) <= budget or len(bin_) == 1
    fit = [length for length in lengths if length <= budget]
    assert len(split) <= len(lengths) - len(fit) + 2 * sum(fit) // budget + 1
    assert split == split_by_tokens(lengths, budget)


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 10, []),
        ([4, 4, 4, 4], 8, [[0, 2], [1, 3]]),
        ([1, 12, 2], 10, [[1], [0, 2]]),
        ([6, 5, 4, 3, 2], 10, [[0, 2], [1, 3, 4]]),  # 9 and 11 if dealt evenly: the first-fit packing stands
        ([9, 1, 1, 1, 1, 1], 10, [[0], [1, 2, 3, 4, 5]]),  # evenly, where first fit would give 10 and 4
    ],
)
def test_split_pinned_by_hand(lengths: list[int], budget: int, expected: list[list[int]]) -> None:
    assert split_by_tokens(lengths, budget) == expected


def test_split_is_balanced() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 128).tolist()
    loads = [sum(lengths[index] for index in bin_) for bin_ in split_by_tokens(lengths, 4096)]
    assert len(loads) == -(-sum(lengths) // 4096)
    assert max(loads) - min(loads) < 40


@pytest.mark.parametrize(
    ("lengths", "multiple", "expected"),
    [
        ([], 3, []),
        ([4, 4, 4], 2, [[0, 2], [1]]),
        ([4, 4, 4, 4, 4], 2, [[0, 4], [1], [2], [3]]),  # three would do
        ([12, 2], 4, [[0], [1], [], []]),
        ([6, 5, 4, 3, 2], 3, [[0], [1, 4], [2, 3]]),
    ],
)
def test_split_into_a_multiple(lengths: list[int], multiple: int, expected: list[list[int]]) -> None:
    assert split_by_tokens(lengths, 10, multiple=multiple) == expected


def test_split_refuses_no_budget() -> None:
    with pytest.raises(ValueError, match="budget is 0"):
        split_by_tokens([1], 0)
