"""Trains again on what a run has learned from, in the same order: exactly as the run did, or in another way."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..broker.errors import ModelError, TrainingError
from .checkpoint import CheckpointStore
from .config import CheckpointConfig
from .dataset import Dataset
from .pupil import Pupil, Training
from .recording import Lesson, Recording


class Replay:
    """The training of a run over again, in a folder of its own, which it resumes from.

    step: how many steps have been taken, those before `start` among them.
    """

    def __init__(
        self, training: Training, checkpoint: CheckpointConfig, *, run: Path, folder: Path, start: int
    ) -> None:
        """
        run: the run directory, whose groups/ is learned from.
        folder: where checkpoints and the model are written.
        start: the step of the run's checkpoint to begin from; 0 to begin from the model.
        """
        self._folder = folder
        self._recording = Recording(run / "groups")
        self._store = CheckpointStore(folder / "checkpoints", keep=checkpoint.keep)
        self._every_steps = checkpoint.every_steps
        begins_at = self._store.load_latest()
        if begins_at is None and start:
            begins_at = CheckpointStore(run / "checkpoints", keep=checkpoint.keep).load(start)
        self._pupil = Pupil(training, Dataset(training.dataset).identity, begins_at)
        self._pupil.before_update(self._store.await_copy)

    @property
    def step(self) -> int:
        return self._pupil.step

    def run(self, end: int, report: Callable[[dict[str, Any]], None]) -> None:
        """Take the steps up to `end`, a record of each to `report`; leaves a checkpoint and the model behind."""
        while self.step < end:
            report(self._one_step(end))
            if self.step % self._every_steps == 0 or self.step == end:
                self._checkpoint()
        self._store.wait()
        self._pupil.save_pretrained(self._folder / "model")

    def _one_step(self, end: int) -> dict[str, Any]:
        began = time.perf_counter()
        lesson = self._recording.read(self.step + 1)
        self._require_fit(lesson)
        self._pupil.follow(lesson.version, lesson.resumes)
        try:
            taken = self._pupil.learn(lesson.groups)
        except TrainingError as error:
            raise TrainingError(f"step {lesson.step}: {error}") from error
        measured = {
            name: value for name, value in taken.measured.items() if not name.startswith(("age_s_", "queue_s_"))
        }
        return {
            "kind": "step",
            "time": time.time(),
            "step": self.step,
            "steps": end,
            "version": self._pupil.version,
            "epoch": 0,
            "prompt_ids": [group.prompt_id for place, group in enumerate(lesson.groups) if place not in taken.refused],
            **measured,
            "step_s": time.perf_counter() - began,
        }

    def _require_fit(self, lesson: Lesson) -> None:
        for group in lesson.groups:
            cause = self._pupil.unfit(group)
            if cause is not None:
                raise ModelError(f"the recording does not fit the model: {cause}")

    def _checkpoint(self) -> None:
        snapshot = self._pupil.snapshot(self._pupil.weights(), trained=[], epoch=0)
        self._store.save(snapshot, permit=lambda: None, done=lambda: None)
