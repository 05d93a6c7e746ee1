"""The picture of a run: what was learned, and how long and how stale its answers were."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .tally import Record, number, surviving_evals, surviving_steps

BLUE, ORANGE, GREY = "#2563a8", "#d9660a", "#555555"
SMOOTHING_SHARE = 12  # the smoothed curve averages over one part in so many of the run,
MAX_WINDOW = 25  # but over no more steps than this
LEAST_SPAN = {"reward": 0.2, "answers": 4.0, "seen": 0.1, "staleness": 1.0}  # of an axis: a flat curve shall look flat


def smoothed(values: list[float], window: int) -> list[float]:
    """The mean of each value and its neighbours, `window` in all and fewer at the ends; centred, so it does not lag."""
    reach = window // 2
    near = [values[max(index - reach, 0) : index + reach + 1] for index in range(len(values))]
    return [sum(each) / len(each) for each in near]


def draw_reward_curve(records: Iterable[Record], path: Path, *, run: str | None = None) -> None:
    """Draw the step and eval records as a PNG.

    records: those of metrics.jsonl, in the order they came; other kinds are passed over.
    path: the file to write; replaced as a whole.
    run: the run's name, for the title; by default the name of the file's folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = list(records)
    steps, evals = surviving_steps(records), surviving_evals(records)
    figure = Figure(figsize=(8.5, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(run or path.absolute().parent.name, fontsize=14, fontweight="bold")
    panels: dict[str, Any] = figure.subplot_mosaic(
        [["reward", "reward"], ["answers", "staleness"]], height_ratios=(3, 2)
    )
    _draw_reward(panels["reward"], steps, evals)
    draws = any("diversity" in record for record in evals)
    (_draw_seen if draws else _draw_length)(panels["answers"], steps, evals)
    _draw_staleness(panels["staleness"], steps)
    for name, axes in panels.items():
        _finish(axes, LEAST_SPAN["seen" if draws and name == "answers" else name])
    aside = path.with_name(path.name + ".tmp")
    figure.savefig(aside, format="png")
    aside.replace(path)


def _draw_reward(axes: Any, steps: list[Record], evals: list[Record]) -> None:
    window = min(max(len(steps) // SMOOTHING_SHARE, 3), MAX_WINDOW) | 1
    at, rewards = _points(steps, "reward_mean")
    smooth = len(at) > window
    _line(axes, at, rewards, color=BLUE, linewidth=0.9, alpha=0.35 if smooth else 1, label="training, each step")
    if smooth:
        _line(axes, at, smoothed(rewards, window), color=BLUE, linewidth=2, label=f"training, mean of {window} steps")
    at, accuracies = _points(evals, "accuracy")
    _line(axes, at, accuracies, color=ORANGE, linewidth=1.6, marker="o", markersize=5, label="held out")
    axes.set_title("Mean reward", fontsize=11, loc="left")
    axes.set_ylabel("mean reward")


def _draw_length(axes: Any, steps: list[Record], evals: list[Record]) -> None:
    at, lengths = _points(steps, "length_mean")
    _line(axes, at, lengths, color=BLUE, linewidth=1.2, label="training")
    at, lengths = _points(evals, "length_mean")
    _line(axes, at, lengths, color=ORANGE, linewidth=1.2, marker="o", markersize=4, label="held out")
    axes.set_title("Answer length", fontsize=11, loc="left")
    axes.set_ylabel("tokens")


def _draw_seen(axes: Any, steps: list[Record], evals: list[Record]) -> None:
    """What is seen of held-out images."""
    at, right = _points(evals, "judge_accuracy")
    _line(axes, at, right, color=ORANGE, linewidth=1.2, marker="o", markersize=4, label="of their class (judge)")
    at, apart = _points(evals, "diversity")
    _line(axes, at, apart, color=BLUE, linewidth=1.2, marker="o", markersize=4, label="diversity")
    axes.set_title("Held-out images", fontsize=11, loc="left")
    axes.set_ylim(0, max([*right, *apart, 0.1]) * 1.1)


def _draw_staleness(axes: Any, steps: list[Record]) -> None:
    at, greatest = _points(steps, "staleness_max")
    if len(at) > 1:
        axes.fill_between(at, greatest, step="mid", color=BLUE, alpha=0.15, linewidth=0, label="up to the oldest token")
    at, means = _points(steps, "staleness_mean")
    _line(axes, at, means, color=BLUE, linewidth=1.2, label="mean")
    axes.set_ylim(0, max([*greatest, 1.0]) * 1.5)  # the legend stands above
    axes.set_title("Staleness of what was taken", fontsize=11, loc="left")
    axes.set_ylabel("versions")


def _points(records: list[Record], key: str) -> tuple[list[int], list[float]]:
    """The steps at which `key` is known, and its values there."""
    known = [(record["step"], value) for record in records if math.isfinite(value := number(record, key, math.nan))]
    return [step for step, _ in known], [value for _, value in known]


def _line(axes: Any, at: list[int], values: list[float], **look: Any) -> None:
    """A line, or a dot where a single point would leave none to see."""
    if at:
        axes.plot(at, values, **({"marker": "o"} if len(at) == 1 else {}) | look)


def _finish(axes: Any, least_span: float) -> None:
    axes.set_xlabel("optimiser step")
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.has_data():
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing was recorded", transform=axes.transAxes, ha="center", color=GREY)
        return
    _widen(axes.get_ylim, axes.set_ylim, least_span)
    _widen(axes.get_xlim, axes.set_xlim, 2)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best", frameon=False, fontsize=9)


def _widen(get_limits: Callable[[], Any], set_limits: Callable[[float, float], Any], least: float) -> None:
    low, high = get_limits()
    if high - low < least:
        set_limits((low + high - least) / 2, (low + high + least) / 2)
