"""One rank of several, in a process of its own: `python -m tests.learner.together RANK FOLDER ROUNDS`.

ROUNDS has cases by the number of ranks that train them; a rank takes part where there are enough. Each case is trained on
the same lessons, and what comes of it on this rank is left in FOLDER/CASE-RANK.pt.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from areal.broker.errors import TrainingError
from areal.broker.trajectory import Group
from areal.learner import packed_lm
from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.checkpoint import CheckpointStore
from areal.learner.config import DatasetConfig, LearnerConfig, ModelConfig, StalenessConfig
from areal.learner.orders import Orders
from areal.learner.pupil import Pupil, Training
from areal.learner.ranks import ALONE, LOOPBACK, Ranks, join, whole

from .lessons import lesson

ROOT = Path(__file__).parents[2]
STEPS = 4
TIMEOUT_S = 240


def training_of(folder: Path, case: dict[str, Any]) -> Training:
    optimizer = {"lr": 1e-2, "eps": 1e-3, "weight_decay": 0.01}
    return Training(
        model=ModelConfig.model_validate({"path": str(folder / case.get("start", "start"))} | case.get("model", {})),
        dataset=DatasetConfig(source="sort", eval_size=0),
        learner=LearnerConfig.model_validate({"steps": STEPS, "optimizer": optimizer} | case.get("learner", {})),
        algorithm=AlgorithmConfig.model_validate(case.get("algorithm", {})),
        staleness=StalenessConfig(max=2),
        temperature=1.0,
        seed=3,
    )


def begin(folder: Path, case: dict[str, Any], ranks: Ranks = ALONE) -> Pupil:
    """The pupil before the first lesson of a case, or where the checkpoint that it `resumes` from left it."""
    checkpoint = CheckpointStore(folder / case["resumes"], keep=1).load_latest() if "resumes" in case else None
    return Pupil(training_of(folder, case), lambda position: position % 8, checkpoint, ranks)


def train(folder: Path, case: dict[str, Any], ranks: Ranks = ALONE) -> tuple[Pupil, list[Any]]:
    """The pupil after the lessons up to `until`, when it may be `saved`, and what each step measured or ended on."""
    pupil, told = begin(folder, case, ranks), []
    with patch.object(packed_lm, "MAX_LOGITS", case.get("max_logits", packed_lm.MAX_LOGITS)):
        for step in range(pupil.step + 1, case.get("until", STEPS) + 1):
            pupil.follow(step - 1, [])
            try:
                taken = pupil.learn(groups_of(case, step))
            except TrainingError as error:
                told.append(str(error))
            else:
                told.append((taken.measured, taken.refused))
    if "saved" in case:
        store = CheckpointStore(folder / case["saved"], keep=1, group=ranks.group)
        snapshot = pupil.snapshot(pupil.weights(), trained=[], epoch=0)
        store.save(snapshot, permit=lambda: None, done=lambda: None)
        store.wait()
    return pupil, told


def groups_of(case: dict[str, Any], step: int) -> Sequence[Group]:
    """A lesson; its first loss is no number at `spoilt` steps, and its shortest answer alone is not cut off if `lone`."""
    groups = lesson(step).groups
    if step in case.get("spoilt", ()):
        groups[0].trajectories[0].behaviour_logprobs[-1] = float("nan")
    if not case.get("lone"):
        return groups
    lone = min((each for group in groups for each in group.trajectories), key=lambda each: len(each.tokens))
    return [
        replace(group, trajectories=tuple(each if each is lone else _cut_off(each) for each in group.trajectories))
        for group in groups
    ]


def _cut_off(trajectory: Any) -> Any:
    return replace(trajectory, finish_reason="length")


def masters(pupil: Pupil) -> list[torch.Tensor]:
    """What the optimiser moves, whole and in float32."""
    return [whole(master).clone() for master in pupil._optimizer._masters]


def train_together(folder: Path, rounds: dict[int, dict[str, Any]]) -> None:
    """Every case on as many ranks, each of which is a process of its own."""
    commands = [
        [sys.executable, "-m", __spec__.name, str(rank), str(folder), json.dumps(rounds)] for rank in range(max(rounds))
    ]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    try:
        for process in processes:
            said = process.communicate(timeout=TIMEOUT_S)[0]
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Mute(Orders):
    """Gives none: each rank knows what to do."""

    def give(self, *_: Any, **__: Any) -> None:
        pass


def meet(rank: int, count: int, folder: Path) -> Ranks:
    store = torch.distributed.FileStore(str(folder / f"store-{count}"), count)
    ranks = join(store, rank=rank, count=count, host=LOOPBACK)
    assert ranks.company is not None
    return replace(ranks, company=replace(ranks.company, orders=Mute(store)))


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    for count, cases in json.loads(sys.argv[3]).items():
        if rank < int(count):
            train_all(folder, cases, meet(rank, int(count), folder))
            torch.distributed.destroy_process_group()


def train_all(folder: Path, cases: dict[str, Any], ranks: Ranks) -> None:
    for name, case in cases.items():
        pupil, told = train(folder, case, ranks)
        weights = ranks.owned(pupil._policy.weights(), by_leader=True)
        held = sum(each.to_local().numel() for each in pupil._policy.parameters())
        left = {"weights": weights, "told": told, "parts": pupil.weights(), "held": held, "masters": masters(pupil)}
        torch.save(left, folder / f"{name}-{ranks.rank}.pt")


if __name__ == "__main__":
    main()
