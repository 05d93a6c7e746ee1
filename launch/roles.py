"""What runs in each process of a run: a rollout worker or the learner, put together from the configuration.

Heavy imports stand inside the functions: each process pays for its own role only, and only after its environment is set.
"""

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..broker.client import connect
from .config import RunConfig

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """What a role's process is told: the configuration (as JSON values), the model's place, and the broker's URL."""

    name: str
    config: dict[str, Any]
    model_path: str
    broker_url: str
    directory: Path
    index: int = 0


class Role:
    """One process of a run, made into a Ray actor by the supervisor."""

    def __init__(self, spec: RoleSpec) -> None:
        self._spec = spec

    def run(self) -> None:
        """Work until the run is over or told to drain."""
        _prepare_process(self._spec)
        run = run_learner if self._spec.name == "learner" else run_rollout
        try:
            run(self._spec, RunConfig.model_validate(self._spec.config))
        except BaseException:
            logging.getLogger(__name__).exception("%s ends on an error", self._spec.name)
            raise


def run_learner(spec: RoleSpec, config: RunConfig) -> None:
    """Be the learner."""
    os.environ["OMP_NUM_THREADS"] = str(config.learner.threads)
    from ..learner.learner import Learner, LearnerSettings

    settings = LearnerSettings(
        run=config.run,
        directory=spec.directory,
        model=config.model.model_copy(update={"path": spec.model_path}),
        dataset=config.dataset,
        learner=config.learner,
        staleness=config.staleness,
        evaluation=config.evaluation,
        checkpoint=config.checkpoint,
        broker=config.broker,
        group_size=config.rollout.group_size,
        temperature=config.rollout.sampling.temperature,
        seed=config.seed,
    )
    Learner(settings, connect(spec.broker_url, timeout_s=config.broker.timeout_s)).run()


def run_rollout(spec: RoleSpec, config: RunConfig) -> None:
    """Be a rollout worker."""
    asyncio.run(_rollout(spec, config))


async def _rollout(spec: RoleSpec, config: RunConfig) -> None:
    from ..broker.bulletin import Bulletin
    from ..broker.lane import Lane
    from ..broker.weights import WeightStore
    from ..rewards.pool import RewardPool
    from ..rollout.follower import WeightFollower
    from ..rollout.vllm_engine import EngineModel, VllmEngine
    from ..rollout.worker import Parts, RolloutWorker, Served
    from ..rollout.workflow import Tools, load_workflow

    client = connect(spec.broker_url, timeout_s=config.broker.timeout_s)
    rollout, lora = config.rollout, config.model.lora
    model = EngineModel(spec.model_path, config.model.dtype, lora.rank if lora else 0)
    engine = VllmEngine(model, rollout.engine, threads=rollout.threads, seed=config.seed + 1000 * (spec.index + 1))
    store = WeightStore(client, config.run, spec.directory / "weights")
    pool = RewardPool(config.rewards)
    await pool.start()
    try:
        parts = Parts(
            engine=engine,
            workflow=load_workflow(rollout, Tools(_tokenizer(spec.model_path), pool, rollout)),
            follower=WeightFollower(store, engine, timeout_s=rollout.weights_timeout_s),
            lanes=(
                Served(Lane(client, config.run, "eval", config.broker), config.evaluation.samples),
                Served(Lane(client, config.run, "train", config.broker), rollout.group_size),
            ),
            bulletin=Bulletin(client, config.run),
        )
        await RolloutWorker(spec.name, parts, rollout, config.broker).run()
    finally:
        await pool.stop()


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def _prepare_process(spec: RoleSpec) -> None:
    """Everything printed goes to the role's log; the process ends with the one that started it."""
    log = (spec.directory / "logs" / f"{spec.name}.log").open("ab", buffering=0)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    faulthandler.enable()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
