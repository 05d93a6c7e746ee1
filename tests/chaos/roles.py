"""The processes of the run under test: the real learner, and the real worker around a light engine.

`python -m tests.chaos.roles` reads the Spec of a worker from standard input; learners are forked off the nursery.
"""

import asyncio
import faulthandler
import importlib
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from areal.broker.bulletin import Bulletin
from areal.broker.client import connect
from areal.broker.errors import Fenced
from areal.broker.tickets import Tickets
from areal.broker.weights import open_store

from .journal import Began, Ended, Journal, Loaded
from .seams import LearnerWitness, watch_redis, watch_worker
from .settings import (
    BROKER,
    CHECKPOINT_EVERY,
    GROUP_SIZE,
    GROUPS_PER_STEP,
    MAX_CONCURRENT,
    MODEL,
    RUN,
    STALENESS,
    TAKE_TIMEOUT_S,
    WEIGHTS_TIMEOUT_S,
)

logger = logging.getLogger(__name__)

FENCED = 3
"""The exit code of a learner whose epoch was over."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a process is told."""

    role: str
    url: str
    directory: str
    journal: str
    steps: int
    seed: int
    told_at: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        return cls(**json.loads(text))


def main() -> int:
    """Be the worker that standard input says."""
    began = time.monotonic()
    importlib.import_module("areal.rollout.worker")
    return play(Spec.from_json(sys.stdin.read()), time.monotonic() - began)


def play(spec: Spec, import_s: float) -> int:
    """Be a role to its end; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    faulthandler.enable()
    journal = Journal(Path(spec.journal))
    journal.write(Began(import_s, spec.told_at))
    watch_redis(journal)
    try:
        learn(spec, journal) if spec.role == "learner" else asyncio.run(work(spec, journal))
    except Fenced as error:
        logger.warning("fenced off: %s", error)
        journal.write(Ended("Fenced", str(error)))
        return FENCED
    except BaseException as error:
        logger.exception("%s ends on an error", spec.role)
        journal.write(Ended(type(error).__name__, str(error)))
        return 1
    journal.write(Ended("", ""))
    return 0


def learn(spec: Spec, journal: Journal) -> None:
    """Be the learner."""
    from areal.learner.algorithm.config import AlgorithmConfig
    from areal.learner.config import (
        CheckpointConfig,
        DatasetConfig,
        EvaluationConfig,
        LearnerConfig,
        ModelConfig,
        StalenessConfig,
    )
    from areal.learner.learner import Learner
    from areal.learner.settings import LearnerSettings

    LearnerWitness(journal).watch()
    settings = LearnerSettings(
        run=RUN,
        directory=Path(spec.directory),
        model=ModelConfig(path=str(MODEL)),
        dataset=DatasetConfig(source="sort", eval_size=4),
        learner=LearnerConfig(
            steps=spec.steps, groups_per_step=GROUPS_PER_STEP, take_timeout_s=TAKE_TIMEOUT_S, threads=1
        ),
        algorithm=AlgorithmConfig(),
        staleness=StalenessConfig(max=STALENESS),
        evaluation=EvaluationConfig(every_steps=0),
        checkpoint=CheckpointConfig(every_steps=CHECKPOINT_EVERY),
        broker=BROKER,
        group_size=GROUP_SIZE,
        temperature=1.0,
        seed=spec.seed,
    )
    learner = Learner(settings, connect(spec.url, timeout_s=BROKER.timeout_s))
    journal.write(Loaded())
    learner.run()


async def work(spec: Spec, journal: Journal) -> None:
    """Be a rollout worker."""
    from areal.rollout.config import RolloutConfig
    from areal.rollout.follower import WeightFollower
    from areal.rollout.worker import Parts, RolloutWorker, Served

    from .engine import LightEngine, RandomReward

    watch_worker(journal)
    client = connect(spec.url, timeout_s=BROKER.timeout_s)
    engine = LightEngine(spec.seed)
    store = open_store(client, RUN, BROKER, Path(spec.directory) / "weights")
    parts = Parts(
        engine=engine,
        workflow=RandomReward(journal, spec.seed),
        follower=WeightFollower(store, engine, timeout_s=WEIGHTS_TIMEOUT_S),
        lanes=(
            Served(Tickets(client, RUN, "eval", BROKER), 1),
            Served(Tickets(client, RUN, "train", BROKER), GROUP_SIZE),
        ),
        bulletin=Bulletin(client, RUN),
    )
    rollout = RolloutConfig(max_concurrent=MAX_CONCURRENT, weights_timeout_s=WEIGHTS_TIMEOUT_S)
    await RolloutWorker(spec.role, parts, rollout, BROKER).run()


if __name__ == "__main__":
    sys.exit(main())
