"""Versions of tokens as spans: the runs of equal version within one trajectory.

The spans of a group are int32[2, S], a row of versions above a row of lengths, in the order of the tokens. The first
span of a trajectory is one of given tokens, since nothing before the first token predicts it; its version is BEGINS, so
the spans tell by themselves where each trajectory begins.

Legend: N tokens of a group of G trajectories laid end to end, S spans.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from .trajectory import NOT_AN_ACTION, least

BEGINS = -2


def spans_of(versions: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The spans of trajectories with these versions, each beginning with a token that was given."""
    versions_N = np.concatenate(versions)
    ends = np.array([0, *accumulate(map(len, versions))])
    is_bound = np.empty(len(versions_N) + 1, np.bool_)
    np.not_equal(versions_N[1:], versions_N[:-1], out=is_bound[1:-1])
    is_bound[ends] = True
    versions_N[ends[:-1]] = BEGINS
    bounds = is_bound.nonzero()[0]
    return np.array([versions_N[bounds[:-1]], bounds[1:] - bounds[:-1]], np.int32)


def prompts_of(spans: NDArray[np.int32]) -> list[int] | None:
    """The number of tokens that were given to each trajectory, if every other is an action; None if some are not."""
    versions_S, lengths_S = spans
    prompts: list[int] = lengths_S[versions_S <= NOT_AN_ACTION].tolist()
    return prompts if len(prompts) == np.count_nonzero(versions_S == BEGINS) else None


def read_spans(spans: NDArray[np.int32], num_tokens: int) -> tuple[NDArray[np.int32], list[slice]]:
    """The versions int32[N] and the place of each trajectory in them.

    Raises ValueError unless these are the spans of trajectories that have N tokens in all, and an action each.
    """
    if len(spans) != 2:
        raise ValueError(f"the spans have shape {list(spans.shape)}, not [2, S]")
    versions_S, lengths_S = spans
    if least(lengths_S) < 1 or np.add.reduce(lengths_S, dtype=np.int64) != num_tokens:
        raise ValueError(f"the spans do not cover the {num_tokens} tokens")
    if least(versions_S) < BEGINS:
        raise ValueError("a version is below -1")
    if versions_S[0] != BEGINS:
        raise ValueError("the first span begins no trajectory")
    firsts_G = (versions_S == BEGINS).nonzero()[0]
    if least(np.maximum.reduceat(versions_S, firsts_G)) <= NOT_AN_ACTION:
        raise ValueError("there is no action: every token is marked as given")
    ends = list(accumulate(np.add.reduceat(lengths_S, firsts_G).tolist()))
    versions_N = np.maximum(versions_S, NOT_AN_ACTION).repeat(lengths_S)
    return versions_N, list(map(slice, [0, *ends], ends))
