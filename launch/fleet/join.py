"""`areal join`: rollout workers from any machine that reaches a run's Redis and its weights, without Ray.

They are started and looked after here, lease prompts as the run's own do, and leave without a trace: on Ctrl-C they finish
what is under way, on the second (or after cluster.drain_s) they hand it back, on the third they are killed.
"""

import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...broker.address import with_credentials
from ...broker.bulletin import DRAIN, Bulletin
from ...broker.chunks import RedisChunks
from ...broker.direct import depot_of
from ...broker.errors import ArealError, BrokerError, CodecError, ConfigError
from ...broker.fleet import Fleet
from ...broker.weights import WeightStore
from ..config import RunConfig
from ..control.locate import Located, Place, open_run
from ..control.watched import Watched, require_under_way
from ..models.path import require_vllm, resolve_model
from ..roles import ROLLOUT, RoleSpec
from ..screen import Screen
from .guests import Guests
from .offer import read_offer

LOOK_S = 0.5
REACH_S = 5.0
FIRST_NUMBER, NUMBERS = 1000, 1_000_000
"""The run's own workers have lower numbers, by which each seeds its engine."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line."""

    url: str
    run: str
    workers: int
    overrides: Sequence[str]
    trusted: bool
    logs: Path | None


def execute(wanted: Wanted) -> int:
    """Work for a run until it ends, or a person says so; returns the exit code. Raises ArealError."""
    with open_run(wanted.run, Place(broker=wanted.url)) as run:
        config = _configured(run, wanted)
        model_path = _model(config)
        _require_weights(run, config)
        _tell_unset(config)
        folder = (wanted.logs or Path("joined") / run.key).resolve()
        specs = _specs(wanted, config, run.key, model_path, folder)
        return Guests(config, specs, run).work()


def _configured(run: Located, wanted: Wanted) -> RunConfig:
    """The run's configuration, as it is for workers here. Raises ArealError."""
    try:
        offer = Fleet(run.client, run.key).offer()
    except CodecError as error:
        raise ConfigError(str(error)) from None
    if offer is None:
        raise ArealError(
            f"{run.name} takes no workers from outside: its `areal run` has not offered its configuration yet"
        )
    _require_driver(run)
    if Bulletin(run.client, run.key).ordered() == DRAIN:
        raise ArealError(f"{run.name} is ending, or has ended: start it again with `areal run` before workers join it")
    config = read_offer(offer, wanted.overrides, run=run.name, trusted=wanted.trusted)
    if config.rewards.where == "ray" and not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            "rewards.where is ray, and RAY_ADDRESS names no cluster here: set it, or have the rewards computed beside the "
            "workers (rewards.where=local)"
        )
    return config


def _require_driver(run: Located) -> None:
    """Raises ArealError if nobody drives the run, and no guard is about to start another driver."""
    try:
        require_under_way(Watched(run.name, run.key, None, run.client))
    except BrokerError:
        raise
    except ArealError as error:
        raise ArealError(f"{error}. Workers join it once `areal run` has been started again") from None


def _tell_unset(config: RunConfig) -> None:
    """Say which variables the run's own workers have that are not set here: whoever may write to Redis names them."""
    named = [*config.cluster.env.rollout, *config.cluster.pass_env]
    unset = [name for name in named if name not in os.environ]
    if unset:
        told = f"the run's own workers have {', '.join(unset)} in their environment (cluster.env, cluster.pass_env)"
        Screen().put((f"{told}; workers here have what is set here", "yellow"))


def _model(config: RunConfig) -> str:
    """The model that engines here begin from. Raises ConfigError, and EngineError if there is no engine for it."""
    if config.denoising is None:
        require_vllm()
    lora = config.denoising.consistency_lora if config.denoising else None
    if lora is not None and lora.startswith("/") and not Path(lora).is_dir():
        raise ConfigError(f"denoising.consistency_lora is {lora}, and there is no such folder here: say where it is")
    try:
        return str(resolve_model(config.model.path, Path.cwd(), pipeline=config.denoising is not None))
    except ConfigError as error:
        raise ConfigError(f"{error} (say where it is on this host: model.path=…)") from None


def _require_weights(run: Located, config: RunConfig) -> None:
    """Raises ConfigError if the run's weights cannot be seen from here."""
    if config.broker.weights == "redis":
        return
    if config.broker.weights == "direct":
        _require_depot(run)
        return
    folder = config.path / "weights"
    store = WeightStore(run.client, run.key, RedisChunks(run.client, run.key))
    for _ in range(3):  # the oldest are deleted as new ones come
        newest = store.latest()
        if folder.is_dir() and (newest is None or newest.is_odd or (folder / newest.name).is_dir()):
            return
        if newest is None and config.path.is_dir():
            return
        time.sleep(LOOK_S)
    raise ConfigError(
        f"the weights of {run.name} are shared in {folder}, which cannot be seen from here: mount it (directory=… says where "
        f"the folder of runs is on this host), or start the run with broker.weights=redis"
    )


def _require_depot(run: Located) -> None:
    """Raises ConfigError if the learner that holds the run's weights cannot be reached from here."""
    depot = depot_of(run.client, run.key)
    if depot is None:  # there are no weights yet
        return
    try:
        socket.create_connection((depot.host, depot.port), timeout=REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"the learner of {run.name} hands out its weights at {depot.host}, port {depot.port}, which cannot be reached "
            f"from here ({error}): open all ports between the two, or start the run with broker.weights=redis (without "
            "cluster.address, a run's learner listens on its own machine alone)"
        ) from None


def _specs(wanted: Wanted, config: RunConfig, key: str, model_path: str, folder: Path) -> list[RoleSpec]:
    """Workers whose names nobody else bears, for whom the broker is at the URL given here."""
    token = secrets.token_hex(4)
    first = FIRST_NUMBER + int(token, 16) % NUMBERS
    told = (config.model_dump(mode="json"), model_path, with_credentials(wanted.url), str(folder), key)
    return [
        RoleSpec(f"{ROLLOUT}-j{token}-{index}", *told, index=first + index, shared=str(config.path))
        for index in range(wanted.workers)
    ]
