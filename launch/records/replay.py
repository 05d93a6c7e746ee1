"""`areal replay`: trains again on what a run has learned from, without rollout workers, and compares.

runs/<run>/replay-1/  config.yaml    what was trained by, under the command that it was for
                      metrics.jsonl  a line a step
                      checkpoints/  model/
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ...broker.errors import ArealError, ConfigError
from ..config import RunConfig, load_run_config, to_yaml
from ..models.path import resolve_model
from ..screen import DASH, Screen, Table, plural, to_json
from .rundir import CONFIG, METRICS, hold, read_metrics, replace
from .tally import Record, number, surviving_steps

COMPARED = ("reward_learned_mean", "loss", "kl_behaviour_prox", "kl_prox_current", "kl_reference", "grad_norm")


@dataclass(frozen=True, slots=True)
class Span:
    """What is trained on again: from the checkpoint of a step (0: from the model), so many steps or all there are."""

    start: int = 0
    steps: int | None = None


def execute(run: Path, overrides: Sequence[str], span: Span, output: Path | None) -> int:
    """Replay the run of a run directory, or go on with that; returns the exit code. Raises ArealError."""
    config = load_run_config(run / CONFIG, overrides, resolved=True)
    config.model.path = str(resolve_model(config.model.path, run, pipeline=config.denoising is not None))
    end = _end(run, span)
    text = f"# areal replay {run.resolve()} --from {span.start}\n{to_yaml(config)}"
    with _opened(output or _own_folder(run, text), text) as folder:
        again = _train(config, run, folder=folder, start=span.start, end=end)
    _compare(surviving_steps(read_metrics(run / METRICS)), again)
    Screen().put(f"written to {folder}/")
    return 0


def _end(run: Path, span: Span) -> int:
    """The last step; raises ConfigError unless every one up to it is recorded."""
    from ...learner.recording import Recording

    recorded = Recording(run / "groups").steps()
    if not recorded:
        raise ConfigError(f"{run} has recorded nothing to learn from again: run it with learner.record=true")
    first = span.start + 1
    end = max(first, recorded[-1]) if span.steps is None else span.start + span.steps
    known = set(recorded)
    missing = next((step for step in range(first, end + 1) if step not in known), None)
    if missing is not None:
        raise ConfigError(
            f"{run} has no recording of step {missing}; its first is of step {recorded[0]}, its last of step "
            f"{recorded[-1]} (--from, --steps)"
        )
    return end


def _own_folder(run: Path, text: str) -> Path:
    """The folder of the same replay, to go on in, or the next one that is free."""
    folders = (run / f"replay-{number}" for number in itertools.count(1))
    return next(folder for folder in folders if _is_free(folder, text))


def _is_free(folder: Path, text: str) -> bool:
    """Whether nothing is in the folder, or this replay."""
    file = folder / CONFIG
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace") == text
    return not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir())


@contextmanager
def _opened(folder: Path, text: str) -> Iterator[Path]:
    """The folder, held, if nothing is in it or this replay."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder)
    except OSError as error:
        raise ArealError(f"the folder {folder} cannot be made: {error}") from error
    with lock:
        if not _is_free(folder, text):
            raise ConfigError(f"{folder} is of another run or replay, or of neither: name another folder with --output")
        replace(folder / CONFIG, text)
        yield folder


def _train(config: RunConfig, run: Path, *, folder: Path, start: int, end: int) -> list[Record]:
    """Take the steps after `start` up to `end` that are not taken yet; returns the records of all."""
    os.environ["OMP_NUM_THREADS"] = str(config.learner.threads)
    from transformers.utils.logging import disable_progress_bar

    from ...learner.pupil import Training
    from ...learner.replay import Replay

    disable_progress_bar()
    training = Training(
        model=config.model,
        dataset=config.dataset,
        learner=config.learner,
        algorithm=config.algorithm,
        staleness=config.staleness,
        temperature=config.rollout.sampling.temperature,
        denoising=config.denoising,
        seed=config.seed,
    )
    replay = Replay(training, config.checkpoint, run=run, folder=folder, start=start)
    if replay.step > end:
        raise ConfigError(
            f"{folder} is this replay and has come to step {replay.step}, beyond step {end}: name another folder with "
            "--output, or more --steps"
        )
    screen = Screen()
    records = [record for record in read_metrics(folder / METRICS) if record["step"] <= replay.step]
    replace(folder / METRICS, "".join(to_json(record) + "\n" for record in records))
    if replay.step > start:
        screen.put(f"goes on after step {replay.step}")
    with (folder / METRICS).open("a", encoding="utf-8") as metrics:

        def report(record: Record) -> None:
            records.append(record)
            metrics.write(to_json(record) + "\n")
            metrics.flush()
            screen.put(step_line(record))

        replay.run(end, report)
    return records


def step_line(record: Record) -> str:
    """A step in a line of text."""
    total = str(record["steps"])
    return "  ".join(
        (
            f"step {record['step']:>{len(total)}}/{total}",
            f"reward {number(record, 'reward_mean'):5.2f}",
            f"loss {number(record, 'loss'):9.2e}",
            f"kl {number(record, 'kl_behaviour_prox'):8.2e}",
            f"grad {number(record, 'grad_norm'):8.2e}",
            f"{number(record, 'step_s'):5.2f} s",
        )
    )


def _compare(original: Sequence[Record], again: Sequence[Record]) -> None:
    """Print how the steps that both have taken differ."""
    before = {record["step"]: record for record in original}
    pairs = [(before[record["step"]], record) for record in again if record["step"] in before]
    screen = Screen()
    if not pairs:
        screen.put("the run has no metrics of these steps to compare with")
        return
    different = [new["step"] for old, new in pairs if any(old.get(name) != new.get(name) for name in COMPARED)]
    table = Table(screen, "mean over the steps", ">run", ">replay", "difference")
    table.put(row for name in COMPARED if (row := _row(name, pairs)))
    verdict = f"differ from step {different[0]} on" if different else "are identical"
    screen.put(f"{plural(len(pairs), 'step')}: these metrics {verdict}")


def _row(name: str, pairs: Sequence[tuple[Record, Record]]) -> list[str]:
    """Of a metric; none where it is 0 throughout."""
    values = [(number(old, name), number(new, name), new["step"]) for old, new in pairs]
    if not any(old or new for old, new, _ in values):
        return []
    most, step = max((abs(old - new), step) for old, new, step in values)
    means = [fmean(value[side] for value in values) for side in (0, 1)]
    return [name, *(f"{mean:.4g}" for mean in means), f"at most {most:.2g}, in step {step}" if most else DASH]
