from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.spans import read_spans, spans_of

trajectories = st.lists(
    st.lists(st.sampled_from([-1, -1, 0, 0, 0, 7]), min_size=1, max_size=20).map(lambda rest: [-1, *rest]),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(trajectories)
def test_spans_are_the_runs_of_each_trajectory(versions: list[list[int]]) -> None:
    runs = [[(version, len(list(run))) for version, run in groupby(one)] for one in versions]
    laid_out = np.array([version for one in versions for version in one], np.int32)
    lengths = np.array([len(one) for one in versions], np.int32)
    flat = np.array([run for one in runs for run in one], np.int32)
    for spans in (spans_of(laid_out, lengths), read_spans(flat, lengths)):
        assert np.stack([spans.versions_S, spans.lengths_S], axis=1).tolist() == flat.tolist()
        assert spans.first_G.tolist() == np.cumsum([0, *map(len, runs[:-1])]).tolist()
        assert spans.versions().tolist() == laid_out.tolist()
        assert spans.num_actions().tolist() == [sum(version != -1 for version in one) for one in versions]
        for one, where in zip(versions, spans.actions(), strict=True):
            assert np.flatnonzero(np.array(one) != -1).tolist() == np.arange(len(one))[where].tolist()


def test_an_answer_is_a_slice() -> None:
    versions = np.array([-1, -1, 3, 4, -1, 3, -1, 3], np.int32)
    assert spans_of(versions, np.array([4, 4], np.int32)).actions()[0] == slice(2, None)


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([[-1, 1, 2]], "not \\[S, 2\\]"),
        ([[-1, 1], [0, 3]], "do not cover"),
        ([[-1, 1], [0, 2], [-1, 1], [0, 3]], "do not cover"),
        ([[-1, 1], [0, 2], [-1, 1], [0, 2], [1, 0]], "do not cover"),
        ([[-1, 1], [0, 2], [-1, 4], [0, -1]], "do not cover"),
        ([[-1, 2**31 - 1], [0, 2**31 - 1], [0, -(2**31)], [0, -(2**31)], [0, 8]], "do not cover"),
        ([[-1, 1], [0, 2], [-1, 1], [-2, 2]], "below -1"),
        ([[-1, 1], [0, 3], [-1, 1], [0, 1]], "reaches into the next"),
        ([[-1, 6]], "reaches into the next"),
        ([[-1, 1], [0, 2], [0, 3]], "first token is an action"),
    ],
)
def test_spans_that_are_not_those_of_the_trajectories_are_refused(spans: list[list[int]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_spans(np.array(spans, np.int32), np.array([3, 3], np.int32))
