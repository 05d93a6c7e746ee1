"""The picture of a run: that it is made from whatever was recorded."""

from pathlib import Path

import pytest

from areal.launch.records.chart import draw_reward_curve, smoothed
from areal.launch.records.tally import Record


def step(number: int, reward: float | None, epoch: int = 1) -> Record:
    values = {"reward_mean": reward, "length_mean": 20.0, "staleness_mean": 1.5, "staleness_max": 3}
    return {"kind": "step", "time": float(number), "step": number, "steps": 9, "epoch": epoch, **values}


def evaluation(number: int) -> Record:
    return {"kind": "eval", "time": float(number), "step": number, "accuracy": 0.5, "length_mean": 21.0}


CASES = {
    "none": [],
    "one step": [step(1, 0.5)],
    "an evaluation alone": [evaluation(0)],
    "a run": [evaluation(0), *(step(n, n / 10) for n in range(1, 10)), evaluation(9)],
    "a restart": [step(1, 0.1), step(2, 0.2), step(2, 0.3, epoch=2)],
    "rewards that were not finite": [step(1, None), step(2, None)],
}


@pytest.mark.parametrize("records", CASES.values(), ids=CASES.keys())
def test_a_png_is_drawn(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "reward.png"
    draw_reward_curve(records, path, run="a run")
    assert path.read_bytes().startswith(b"\x89PNG") and [each.name for each in tmp_path.iterdir()] == ["reward.png"]


def test_smoothing_is_centred_and_narrows_at_the_ends() -> None:
    assert smoothed([0.0, 3.0, 6.0, 0.0], 3) == [1.5, 3.0, 3.0, 3.0]
    assert smoothed([], 3) == []
