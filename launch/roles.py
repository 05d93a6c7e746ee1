"""What runs in each process of a run: a rollout worker or the learner, put together from the configuration.

`python -m areal.launch.roles FD` reads a RoleSpec from standard input, is that role to its end, and writes what went
wrong to the file descriptor FD. Heavy imports stand inside the functions: each process pays for its own role only, and
only after its environment is set.
"""

import asyncio
import faulthandler
import json
import logging
import os
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..broker.bulletin import TOLD, Bulletin
from ..broker.client import Client, connect
from ..broker.errors import RoleDied
from ..broker.lifetime import STUCK
from ..broker.rollcall import Activity, Presence, RollCall
from .config import RunConfig
from .driver.herald import Herald

logger = logging.getLogger(__name__)

LEARNER, ROLLOUT = "learner", "rollout"
MAX_TEXT = 8_000
"""Of an error: a report is then less than a pipe holds, and writing it never blocks."""


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """What a role's process is told: the configuration (as JSON values), the model's place, and the broker's URL.

    `host` is the address by which Ray knows the node that it runs on, which its actor adds. `directory` is the run's, or a
    folder of a worker's own that has joined from outside, for which `shared` is then the run's as its host sees it.
    `environment` is what its process gets besides; as it may hold passwords, it is written nowhere, and neither is the URL.
    """

    name: str
    config: dict[str, Any]
    model_path: str
    broker_url: str = field(repr=False)
    directory: str
    run_key: str
    index: int = 0
    host: str = ""
    shared: str = ""
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def role(self) -> str:
        """LEARNER or ROLLOUT; `index` tells which rank or worker."""
        return LEARNER if self.name.startswith(LEARNER) else ROLLOUT

    @property
    def log(self) -> Path:
        """Where everything that the role prints goes."""
        return Path(self.directory) / "logs" / f"{self.name}.log"

    @property
    def weights(self) -> Path:
        """Where weights are shared, if they travel by a directory."""
        return Path(self.shared or self.directory) / "weights"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def main() -> int:
    """Be the role that standard input says; the exit code tells whether it ended well."""
    spec = RoleSpec(**json.loads(sys.stdin.read()))
    _prepare_process()
    try:
        _be(spec, RunConfig.model_validate(spec.config))
    except BaseException as error:
        logger.exception("%s ends on an error", spec.name, extra=TOLD)
        _tell(int(sys.argv[1]), error)
        if isinstance(error, RoleDied) or _is_stuck():  # a thread may wait yet for what the other was to do
            _end_at_once(1)
        return 1
    if _is_stuck():
        _end_at_once(0)
    return 0


def _is_stuck() -> bool:
    """Whether a thread still stands in torch.distributed, which would abort the process as Python ends it."""
    return any(thread.name == STUCK for thread in threading.enumerate())


def _end_at_once(exit_code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _be(spec: RoleSpec, config: RunConfig) -> None:
    """The role, who answers the roll-call from before its imports on, which take a while."""
    client = connect(spec.broker_url, timeout_s=config.broker.timeout_s)
    if config.cluster.log_level != "none":
        report = Bulletin(client, spec.run_key).report
        logging.getLogger().addHandler(Herald(spec.name, report, level=config.cluster.log_level))
    run = run_learner if spec.role == LEARNER else run_rollout
    with _presence(spec, config, client) as presence:
        run(spec, config, client, presence.activity)


def _presence(spec: RoleSpec, config: RunConfig, client: Client) -> Presence:
    """Answers the roll-call for this process, often enough that only one that stands still is silent."""
    lease_s = config.broker.lease_s
    roll = RollCall(client, spec.run_key, silent_after_s=lease_s)
    return Presence(roll, name=spec.name, role=spec.role, every_s=min(1.0, lease_s / 4))


def run_learner(spec: RoleSpec, config: RunConfig, client: Client, activity: Activity) -> None:
    """Be a rank of the learner, the first of which leads."""
    os.environ["OMP_NUM_THREADS"] = str(config.learner.threads)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or it warns of every wait that ends without a word
    from ..learner.follower import Follower
    from ..learner.learner import Learner
    from ..learner.ranks import LOOPBACK, blaming_others
    from ..learner.settings import LearnerSettings

    host = LOOPBACK if config.cluster.address is None else spec.host
    settings = LearnerSettings(
        run=spec.run_key,
        directory=Path(spec.directory),
        model=config.model.model_copy(update={"path": spec.model_path}),
        dataset=config.dataset,
        learner=config.learner,
        algorithm=config.algorithm,
        staleness=config.staleness,
        evaluation=config.evaluation,
        checkpoint=config.checkpoint,
        broker=config.broker,
        group_size=config.rollout.group_size,
        temperature=config.rollout.sampling.temperature,
        denoising=config.denoising,
        seed=config.seed,
    )
    with blaming_others():
        if spec.index == 0:
            Learner(settings, client, activity, host=host).run()
        else:
            Follower(settings, client, spec.index, activity, host=host).run()


def run_rollout(spec: RoleSpec, config: RunConfig, client: Client, activity: Activity) -> None:
    """Be a rollout worker."""
    asyncio.run(_rollout(spec, config, client, activity))


async def _rollout(spec: RoleSpec, config: RunConfig, client: Client, activity: Activity) -> None:
    from ..broker.keys import EVAL, TRAIN
    from ..broker.tickets import Tickets
    from ..broker.weights import open_store
    from ..rewards.pool import RewardPool
    from ..rollout.follower import WeightFollower
    from ..rollout.worker import Parts, RolloutWorker, Served
    from ..rollout.workflow import Tools, load_workflow

    rollout = config.rollout
    engine = _image_engine(spec, config) if config.denoising else _token_engine(spec, config)
    tokenizer = None if config.denoising else _tokenizer(spec.model_path)
    store = open_store(client, spec.run_key, config.broker, spec.weights)
    pool = RewardPool(config.rewards)
    await pool.start()
    try:
        parts = Parts(
            engine=engine,
            workflow=load_workflow(rollout, Tools(tokenizer, pool, rollout, config.denoising, config.seed)),
            follower=WeightFollower(store, engine, timeout_s=rollout.weights_timeout_s),
            lanes=(
                Served(Tickets(client, spec.run_key, EVAL, config.broker), config.evaluation.samples),
                Served(Tickets(client, spec.run_key, TRAIN, config.broker), rollout.group_size),
            ),
            bulletin=Bulletin(client, spec.run_key),
            activity=activity,
            counters=pool.counters,
        )
        await RolloutWorker(spec.name, parts, rollout, config.broker).run()
    finally:
        await pool.stop()


def _token_engine(spec: RoleSpec, config: RunConfig) -> Any:
    from ..rollout.vllm_engine import EngineModel, VllmEngine

    rollout, lora = config.rollout, config.model.lora
    model = EngineModel(spec.model_path, config.model.dtype, lora.rank if lora else 0)
    return VllmEngine(model, rollout.engine, threads=rollout.threads, seed=config.seed + 1000 * (spec.index + 1))


def _image_engine(spec: RoleSpec, config: RunConfig) -> Any:
    from ..rollout.consistency_engine import AdaptedModel, ConsistencyEngine

    rollout, lora, denoising = config.rollout, config.model.lora, config.denoising
    assert lora is not None and denoising is not None  # as RunConfig has it
    model = AdaptedModel(spec.model_path, config.model.dtype, lora.rank, lora.alpha, lora.targets)
    return ConsistencyEngine(model, denoising, timeout_s=rollout.engine.timeout_s, threads=rollout.threads)


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def _prepare_process() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    faulthandler.enable()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _tell(descriptor: int, error: BaseException) -> None:
    """Write the error's kind and text as JSON, for the actor that waits."""
    report = {"kind": type(error).__name__, "text": str(error)[:MAX_TEXT]}
    os.write(descriptor, json.dumps(report, ensure_ascii=False).encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
