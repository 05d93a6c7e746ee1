"""`areal reward try`: a reward called on rows of a data set, in a process of its own as in a run, and what it says of them."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...broker.errors import ConfigError, RewardError
from ...rewards.config import RewardConfig, RewardsConfig
from ...rewards.reward import Score
from ..config import RunConfig
from ..screen import Screen, Table, one_line, plural, span, to_json, to_text

if TYPE_CHECKING:
    from ...rewards.pool import RewardPool

Row = dict[str, Any]
SHOWN_CHARS = 48


@dataclass(frozen=True, slots=True)
class Trial:
    """A reward's name, its kwargs (None: as the configuration has them), and what it is tried on.

    `count` rows of the configuration's data set, or `row`; with `completions`, or `each` answers of the model if
    `generate`, or else with the row's own `answer`.
    """

    name: str
    kwargs: dict[str, Any] | None = None
    count: int = 8
    row: Row | None = None
    completions: Sequence[str] = ()
    generate: bool = False
    each: int = 1


@dataclass(slots=True)
class Tried:
    """One row: what was answered, what that earned or why it earned nothing, and how long it took."""

    row: Row
    answers: list[Any]
    scores: list[Score] = field(default_factory=list)
    error: str | None = None
    took_s: float = 0.0


def execute(config: RunConfig | None, trial: Trial) -> int:
    """Try it and print what came back; returns 1 if a call failed. Raises ArealError if it cannot be tried at all."""
    rewards = _rewards(config, trial)
    rows = _rows(config, trial)
    tried = [Tried(row, answers) for row, answers in zip(rows, _answers(config, trial, rows), strict=True)]
    asyncio.run(_call(rewards, tried))
    _show(trial, tried)
    return int(any(each.error is not None for each in tried))


def _rewards(config: RunConfig | None, trial: Trial) -> RewardsConfig:
    """The pool that the reward is tried in: the configuration's, with this function alone, and no second try."""
    known = config.rewards.functions if config is not None else []
    own = next((function.kwargs for function in known if _absolute(function.name) == _absolute(trial.name)), {})
    function = RewardConfig(name=trial.name, kwargs=own if trial.kwargs is None else trial.kwargs)
    given = config.rewards if config is not None else RewardsConfig(functions=[function])
    return given.model_copy(update={"functions": [function], "workers": 1, "retries": 0})


def _absolute(name: str) -> str:
    """The name, of a function in a file with the whole path."""
    place, colon, function = name.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{function}" if colon and place.endswith(".py") else name


def _rows(config: RunConfig | None, trial: Trial) -> list[Row]:
    if trial.row is not None:
        return [trial.row]
    if config is None:
        raise ConfigError("there is nothing to try the reward on: name a --config, whose data set has rows, or a --row")
    from ...learner.dataset import Dataset

    dataset = Dataset(config.dataset)
    return [dataset.train_row(position) for position in range(trial.count)]


def _answers(config: RunConfig | None, trial: Trial, rows: Sequence[Row]) -> list[list[Any]]:
    """A list for each row: images, or texts with what is known of them."""
    from .answers import images_of, texts_of

    if config is not None and config.denoising is not None:
        return images_of(config, rows, each=trial.each)
    if trial.generate:
        if config is None:
            raise ConfigError("--generate has the model of a --config answer, and there is none")
        return [list(answers) for answers in texts_of(config, rows, each=trial.each)]
    return [[(text, {}) for text in trial.completions or [str(row.get("answer", ""))]] for row in rows]


async def _call(rewards: RewardsConfig, tried: Sequence[Tried]) -> None:
    """A row at a time, so that each has its own time."""
    from ...rewards.pool import RewardPool

    pool = RewardPool(rewards)
    await pool.start()
    try:
        for each in tried:
            began = time.perf_counter()
            try:
                each.scores = await _scored(pool, each)
            except RewardError as error:
                each.error = str(error)
            each.took_s = time.perf_counter() - began
    finally:
        await pool.stop()


async def _scored(pool: "RewardPool", tried: Tried) -> list[Score]:
    from ...rollout.workflow import prompt_of

    prompt = prompt_of(tried.row)
    if not isinstance(tried.answers[0], tuple):
        return await pool.score_images(prompt, tried.answers, tried.row)
    grading = pool.grading(prompt, tried.row, len(tried.answers))
    return list(await asyncio.gather(*(grading.score(text, **known) for text, known in tried.answers)))


def _show(trial: Trial, tried: Sequence[Tried]) -> None:
    screen = Screen()
    table = Table(screen, ">row", ">reward", ">time", "parts", "prompt", "answer")
    table.put(line for number, each in enumerate(tried) for line in _lines(number, each))
    for number, each in enumerate(tried):
        if each.error is not None:
            screen.put("")
            screen.put((f"row {number}", "bold red"), f": {each.error}")
            screen.put(to_text(each.row))
    failed = sum(each.error is not None for each in tried)
    slowest = max(each.took_s for each in tried)
    screen.put("")
    screen.put(
        f"{trial.name}: {plural(len(tried), 'row')}, {failed} failed; the slowest took {_time(slowest)} "
        "(the first call may import and load)"
    )


def _lines(number: int, tried: Tried) -> list[list[str]]:
    """One for each answer of a row."""
    prompt = _cut(str(tried.row.get("prompt", tried.row.get("label", ""))))
    scores: list[Score | None] = [*tried.scores] or [None] * len(tried.answers)
    lines = []
    for place, (answer, score) in enumerate(zip(tried.answers, scores, strict=True)):
        told = _cut(answer[0]) if isinstance(answer, tuple) else f"image {answer.width} x {answer.height}"
        earned = "failed" if score is None else f"{score.total:.4g}"
        parts = to_json(score.parts) if score is not None and len(score.parts) > 1 else ""
        lines.append([str(number), earned, _time(tried.took_s) if place == 0 else "", parts, prompt, told])
    return lines


def _time(seconds: float) -> str:
    return span(seconds) if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…"


def read_json(flag: str, text: str) -> dict[str, Any]:
    """The object that a flag was given as JSON; raises ConfigError for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{flag}: an object is wanted, as {{"answer": "4"}}, not {text!r}')
    return value
