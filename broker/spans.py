"""Versions of tokens as spans: the runs of equal version within one trajectory.

Legend: N tokens of a group of G trajectories laid end to end, S spans.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trajectory import NOT_AN_ACTION


@dataclass(frozen=True, slots=True)
class Spans:
    """`versions_S` int32[S] and `lengths_S` int32[S] in the order of the tokens; trajectory g begins with span `first_G[g]`.

    Made by `spans_of` or `read_spans`, which see to it that they are the spans of G trajectories.
    """

    versions_S: NDArray[np.int32]
    lengths_S: NDArray[np.int32]
    first_G: NDArray[np.int64]

    @property
    def are_actions_S(self) -> NDArray[np.bool_]:
        """bool[S]."""
        actions: NDArray[np.bool_] = self.versions_S != NOT_AN_ACTION
        return actions

    def versions(self) -> NDArray[np.int32]:
        """int32[N]."""
        return np.repeat(self.versions_S, self.lengths_S)

    def num_actions(self) -> NDArray[np.int64]:
        """int64[G]."""
        return np.add.reduceat(self.lengths_S * self.are_actions_S, self.first_G, dtype=np.int64)

    def actions(self) -> list[slice | NDArray[np.bool_]]:
        """Where the actions of each trajectory are: a slice if they are all after the first span (an answer), else a mask.

        A slice is read and written many times faster.
        """
        are_actions_S = self.are_actions_S
        num_given_G = np.add.reduceat(~are_actions_S, self.first_G, dtype=np.int64).tolist()
        bounds = np.append(self.first_G, len(self.versions_S)).tolist()
        return [
            slice(int(self.lengths_S[first]), None)
            if num_given == 1
            else np.repeat(are_actions_S[first:end], self.lengths_S[first:end])
            for num_given, first, end in zip(num_given_G, bounds, bounds[1:], strict=False)
        ]


def spans_of(versions_N: NDArray[np.int32], lengths_G: NDArray[np.int32]) -> Spans:
    """The spans of trajectories with these versions and lengths, each beginning with a token that was given."""
    begins_G = np.cumsum(lengths_G, dtype=np.int64) - lengths_G
    starts_N = np.zeros(-(-len(versions_N) // 8) * 8, np.bool_)
    np.not_equal(versions_N[1:], versions_N[:-1], out=starts_N[1 : len(versions_N)])
    starts_N[begins_G] = True
    starts_S = _sparse_flatnonzero(starts_N)
    lengths_S = np.diff(starts_S, append=len(versions_N)).astype(np.int32)
    return Spans(versions_N[starts_S], lengths_S, np.searchsorted(starts_S, begins_G))


def read_spans(spans: NDArray[np.int32], lengths_G: NDArray[np.int32]) -> Spans:
    """The spans in int32[S, 2] (version, length); raises ValueError unless they are those of such trajectories."""
    if spans.shape[1] != 2:
        raise ValueError(f"the spans have shape {list(spans.shape)}, not [S, 2]")
    versions_S, lengths_S = np.ascontiguousarray(spans.T)
    ends_G, ends_S = np.cumsum(lengths_G, dtype=np.int64), np.cumsum(lengths_S, dtype=np.int64)
    if lengths_S.min() < 1 or ends_S[-1] != ends_G[-1]:
        raise ValueError("the spans do not cover the tokens")
    if versions_S.min() < NOT_AN_ACTION:
        raise ValueError("a version is below -1")
    last_G = np.searchsorted(ends_S, ends_G)
    if (ends_S[last_G] != ends_G).any():
        raise ValueError("a span reaches into the next trajectory")
    first_G = np.append(0, last_G[:-1] + 1)
    if (versions_S[first_G] != NOT_AN_ACTION).any():
        raise ValueError("the first token is an action: nothing before it predicts it")
    return Spans(versions_S, lengths_S, first_G)


def _sparse_flatnonzero(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """np.flatnonzero, a few times faster where few flags are set; their number is a multiple of 8."""
    words = np.flatnonzero(flags.view(np.uint64))
    rows, columns = np.nonzero(flags.reshape(-1, 8)[words])
    return 8 * words[rows] + columns
