"""A short drill with every kind of fault; `make chaos` is the long one."""

from pathlib import Path

import pytest
from rich.console import Console

from .drill import drill
from .faults import KINDS
from .report import report_of, show

FAULTS = 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_whatever_dies(tmp_path: Path) -> None:
    outcome = drill(tmp_path, KINDS, faults=FAULTS, seed=1, gap_s=2.0, say=print)
    report = report_of(outcome)
    show(report, Console(width=140))
    assert {kind.name for kind in KINDS} == outcome.strikes.keys()
    assert report.passed, "\n".join([*outcome.surprises, *report.verdict.problems])
