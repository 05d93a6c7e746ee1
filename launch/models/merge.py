"""`areal merge`: one model from the weights that a run has saved at several steps."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...broker.errors import ArealError, ConfigError
from ..records.rundir import METRICS, read_metrics
from ..records.tally import Record, numbers, surviving_evals
from ..screen import Screen, Table
from .export import Source, hush, new_folder, require_texts

if TYPE_CHECKING:
    from ...learner.merge import Mixture

RECIPE = "areal_merge.json"
"""Beside the model: what it was made of."""

EVALUATIONS = 50
"""Scores that a search takes, unless that is given."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How the coefficients of the steps are chosen: as given, or else by uniform, metric or search.

    score, evaluations, seed: of the search; None where they are not given.
    """

    by: str
    weights: list[float] | None
    score: str | None
    evaluations: int | None
    seed: int | None

    @property
    def num_evaluations(self) -> int:
        """How many scores the search takes."""
        return EVALUATIONS if self.evaluations is None else self.evaluations


def merge(source: Source, steps: Sequence[int], choice: Choice, *, output: Path | None) -> int:
    """Write the linear combination of the weights of these steps. Raises ArealError."""
    _check(steps, choice)
    require_texts(source, "areal merge")
    evals = _nearest_evals(source, steps) if choice.by == "metric" else [None] * len(steps)
    score = _load_score(choice.score)

    from ...learner.archive import open_weights
    from ...learner.merge import Mixture

    hush()
    saved = [open_weights(source.checkpoints, step) for step in steps]
    target = output or source.directory / f"merge-steps-{min(steps)}-{max(steps)}"
    with new_folder(target) as aside:
        mixture = Mixture(source.model, saved)
        if score is None:
            coefficients, best = _coefficients(choice, evals), None
        else:
            coefficients, best = _search(mixture, len(steps), choice, score, aside / "candidate")
        mixture.write(coefficients, aside)
        recipe = {"run": source.directory.name, "steps": [*steps], "weights": coefficients, "score": best}
        (aside / RECIPE).write_text(json.dumps(recipe) + "\n")
    screen = Screen()
    Table(screen, ">step", ">weight", "").put(map(_row, steps, coefficients, evals))
    screen.put(f"merged: {target}/")
    return 0


def _check(steps: Sequence[int], choice: Choice) -> None:
    """Raises ConfigError for what cannot be meant."""
    if len(set(steps)) != len(steps) or len(steps) < 2:
        raise ConfigError(f"--steps {_listed(steps)}: two different steps or more are wanted, each once")
    if choice.weights is not None and len(choice.weights) != len(steps):
        raise ConfigError(
            f"--weights {_listed(choice.weights)}: {len(steps)} are wanted, one for each of --steps {_listed(steps)}"
        )
    if choice.weights is not None and not 0 < sum(choice.weights) < math.inf:
        raise ConfigError(f"--weights {_listed(choice.weights)}: their sum is {sum(choice.weights):g}, not above 0")
    _check_search(steps, choice)


def _check_search(steps: Sequence[int], choice: Choice) -> None:
    """Raises ConfigError for what only a search takes and there is none, or the other way round."""
    if choice.by != "search":
        of_search = {"--score": choice.score, "--evaluations": choice.evaluations, "--seed": choice.seed}
        stray = [option for option, value in of_search.items() if value is not None]
        if stray:
            raise ConfigError(f"{stray[0]} is of a search, and there is none: give --by search too, or leave it out")
        return
    if choice.score is None:
        raise ConfigError("--by search wants to know what to make high: give --score ./file.py:function too")
    if choice.num_evaluations <= len(steps):
        raise ConfigError(
            f"--evaluations {choice.num_evaluations}: {len(steps) + 1} at least are wanted, as the search begins with "
            "the mean and with each step alone"
        )


def _coefficients(choice: Choice, evals: Sequence[Record | None]) -> list[float]:
    from ...learner.merge import by_metric, normalised

    if choice.by == "metric":
        return by_metric([record["accuracy"] for record in evals if record])
    return normalised(choice.weights or [1.0] * len(evals))


def _nearest_evals(source: Source, steps: Sequence[int]) -> list[Record | None]:
    """Of each step, the evaluation nearest to it, the earlier of two; raises ConfigError if there were none."""
    records = surviving_evals(read_metrics(source.directory / METRICS))
    records = [record for record in records if numbers([record], "accuracy")]
    if not records:
        raise ConfigError(
            f"--by metric: {source.directory / METRICS} has no eval records; set evaluation.every_steps for a run, or "
            "choose another --by"
        )
    return [min(records, key=lambda record: abs(record["step"] - step)) for step in steps]


def _load_score(spec: str | None) -> Callable[[Path], Any] | None:
    """The user's function; raises ConfigError for whatever is wrong with it."""
    from ...rewards.loading import load_object

    if spec is None:
        return None
    try:
        function = load_object(spec)
    except ConfigError as error:
        raise ConfigError(f"--score {error}") from error
    except (Exception, SystemExit) as error:  # the user's own file fails as it is loaded
        raise ConfigError(f"--score {spec}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"--score {spec} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def _search(
    mixture: "Mixture", size: int, choice: Choice, score: Callable[[Path], Any], folder: Path
) -> tuple[list[float], float]:
    """The coefficients that score best, and their score; each candidate is written, scored and deleted."""
    from ...learner.search import search

    screen = Screen()
    scores: list[float] = []

    def score_of(coefficients: list[float]) -> float:
        candidate = folder.with_name(f"{folder.name}-{len(scores) + 1}")  # a name of its own, in case the user's caches
        mixture.write(coefficients, candidate)
        value = _scored(score, candidate, f"--score {choice.score}, evaluation {len(scores) + 1}")
        shutil.rmtree(candidate)
        scores.append(value)
        screen.put(f"evaluation {len(scores)} of {choice.num_evaluations}: {value:.6g} for {_listed(coefficients)}")
        return value

    coefficients, best = search(score_of, size, evaluations=choice.num_evaluations, seed=choice.seed or 0)
    if best == float("-inf"):
        raise ArealError(f"--score {choice.score} has returned no finite number in {len(scores)} evaluations")
    return coefficients, best


def _scored(score: Callable[[Path], Any], candidate: Path, where: str) -> float:
    try:
        value = score(candidate)
    except Exception as error:
        raise ArealError(f"{where}: {type(error).__name__}: {error}") from error
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ArealError(f"{where} returned {value!r}, a {type(value).__name__}, where a number was wanted") from error


def _row(step: int, coefficient: float, record: Record | None) -> list[str]:
    why = "" if record is None else f"accuracy {record['accuracy']:.4f} at step {record['step']}"
    return [str(step), f"{coefficient:.4f}", why]


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.6g}" for value in values)
