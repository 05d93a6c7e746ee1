from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.spans import BEGINS, prompts_of, read_spans, spans_of

trajectories = st.lists(
    st.lists(st.sampled_from([-1, -1, 0, 0, 0, 7]), max_size=20).map(lambda rest: [-1, *rest, 0]),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(trajectories)
def test_spans_are_the_runs_of_each_trajectory(versions: list[list[int]]) -> None:
    runs = [[[version, len(list(run))] for version, run in groupby(one)] for one in versions]
    answers = all([version for version, _ in own].count(-1) == 1 for own in runs)
    prompts = [own[0][1] for own in runs]
    laid_out = [version for one in versions for version in one]
    for own in runs:
        own[0][0] = BEGINS
    spans = spans_of([np.array(one, np.int32) for one in versions])
    assert spans.T.tolist() == [run for own in runs for run in own]
    assert prompts_of(spans) == (prompts if answers else None)
    read, places = read_spans(spans, len(laid_out))
    assert read.tolist() == laid_out
    assert [read[place].tolist() for place in places] == versions


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([[-2], [1], [2]], "not \\[2, S\\]"),
        ([[-2, 0], [1, 4]], "do not cover"),
        ([[-2, 0, -2, 0], [1, 2, 1, 3]], "do not cover"),
        ([[-2, 0, -2, 0, 1], [1, 2, 1, 2, 0]], "do not cover"),
        ([[-2, 0, -2, 0], [1, 2, 4, -1]], "do not cover"),
        ([[-2, 0, 0, 0, 0], [2**31 - 1, 2**31 - 1, -(2**31), -(2**31), 8]], "do not cover"),
        ([[-2, 0, 0], [2**31 - 1, 2**31 - 1, 8]], "do not cover"),
        ([[-2, 0, -2, -3], [1, 2, 1, 2]], "below -1"),
        ([[-1, 0, -2, 0], [1, 2, 1, 2]], "begins no trajectory"),
        ([[0, -2, 0], [2, 2, 2]], "begins no trajectory"),
        ([[-2], [6]], "no action"),
        ([[-2, 0, -2], [2, 2, 2]], "no action"),
        ([[-2, -1, -2, 0], [1, 2, 1, 2]], "no action"),
    ],
)
def test_spans_that_are_not_those_of_the_tokens_are_refused(spans: list[list[int]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_spans(np.array(spans, np.int32), 6)
