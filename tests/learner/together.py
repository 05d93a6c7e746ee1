"""One rank of several, in a process of its own: `python -m tests.learner.together RANK COUNT FOLDER CASES`.

Trains every case on the same lessons and leaves what came of it in FOLDER/CASE.pt (the leader alone).
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from areal.broker.errors import TrainingError
from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.config import DatasetConfig, LearnerConfig, ModelConfig, StalenessConfig
from areal.learner.pupil import Pupil, Training
from areal.learner.ranks import ALONE, LOOPBACK, Ranks, join

from .lessons import lesson

ROOT = Path(__file__).parents[2]
STEPS = 4
TIMEOUT_S = 240


def training_of(folder: Path, case: dict[str, Any]) -> Training:
    optimizer = {"lr": 1e-2, "eps": 1e-3, "weight_decay": 0.01}
    return Training(
        model=ModelConfig.model_validate({"path": str(folder / "start")} | case.get("model", {})),
        dataset=DatasetConfig(source="sort", eval_size=0),
        learner=LearnerConfig.model_validate({"steps": STEPS, "optimizer": optimizer} | case.get("learner", {})),
        algorithm=AlgorithmConfig.model_validate(case.get("algorithm", {})),
        staleness=StalenessConfig(max=2),
        temperature=1.0,
        seed=3,
    )


def train(folder: Path, case: dict[str, Any], ranks: Ranks = ALONE) -> tuple[Pupil, list[Any]]:
    """The pupil after the lessons, and what each step measured or ended on."""
    pupil, told = Pupil(training_of(folder, case), lambda position: position % 8, ranks=ranks), []
    for step in range(1, STEPS + 1):
        groups = list(lesson(step).groups)
        if step in case.get("spoilt", ()):
            groups[0].trajectories[0].behaviour_logprobs[-1] = float("nan")
        pupil.follow(step - 1, [])
        try:
            taken = pupil.learn(groups)
        except TrainingError as error:
            told.append(str(error))
        else:
            told.append((taken.measured, taken.refused))
    return pupil, told


def start(rank: int, count: int, *arguments: str, module: str = __spec__.name) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, str(rank), str(count), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Wait for the ranks; none is left."""
    try:
        for process in processes:
            said = process.communicate(timeout=TIMEOUT_S)[0]
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()


def meet(rank: int, count: int, folder: Path) -> Ranks:
    store = torch.distributed.FileStore(str(folder / "store"), count)
    return replace(join(store, rank=rank, count=count, host=LOOPBACK), orders=None)  # each knows what to do


def main() -> None:
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    ranks = meet(rank, count, folder)
    for name, case in json.loads(sys.argv[4]).items():
        pupil, told = train(folder, case, ranks)
        weights = ranks.owned(pupil._policy.weights(), by_leader=True)
        held = sum(each.to_local().numel() for each in pupil._policy.parameters())
        left = {"weights": weights, "told": told, "parts": pupil.weights(), "held": held}
        torch.save(left, folder / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
