"""`areal doctor`: which checks there are for a machine, or for a configuration on it; and how their findings are shown."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ...broker.address import with_credentials
from ...broker.errors import ArealError, ConfigError
from ..cluster.nvidia import Gpu, find_gpus
from ..cluster.transport import bytes_in_redis
from ..config import RunConfig
from ..models.path import resolve_model
from ..models.size import ModelSize, size_of
from ..screen import Screen, plural, to_json
from . import cluster, inputs, machine, redis
from .cuda import DEADLINE_S
from .finding import LOCAL_S, Check, Finding, carry_out
from .gpus import look_at_gpus, look_at_shares, shares_of
from .memory import look_at_memory, look_at_size, need_of, unknown

MARKS = {"ok": ("ok       ", "green"), "warning": ("warning  ", "yellow"), "problem": ("problem  ", "bold red")}


def examine(config: RunConfig | None, folder: Path, *, as_json: bool) -> int:
    """Look at this machine, and at what a configuration in `folder` wants of it and of its cluster; print what is found.

    Returns the exit code: 1 if there is a problem.
    """
    findings, screen = [], Screen()
    for checks in rooms(config, folder):
        with _quietly():
            found = list(carry_out(checks))
        for finding in found:
            if as_json:
                print(to_json(asdict(finding)), flush=True)
            else:
                _put(screen, finding)
        findings += found
    if not as_json:
        _conclude(screen, findings)
    return int(any(finding.level == "problem" for finding in findings))


def rooms(config: RunConfig | None, folder: Path) -> Iterator[list[Check]]:
    """What there is to look at: on this machine, then of what a configuration names, and last on other machines."""
    gpus = find_gpus()
    yield [
        Check("python", machine.look_at_python),
        Check("engine", partial(machine.look_at_engine, config)),
        Check("cores", partial(machine.look_at_cores, config)),
        Check("gpus", partial(look_at_gpus, gpus), DEADLINE_S + LOCAL_S),
        Check("shared memory", machine.look_at_shared_memory),
        Check("files", machine.look_at_limits),
        Check("sockets", machine.look_at_sockets),
    ]
    if config is None:
        disk = Check("disk", partial(machine.look_at_disk, Path("runs").resolve()))
        yield [disk, Check("redis", machine.look_at_own_redis)]
        return
    size = _size_of(config, folder)
    yield _of_configuration(config, folder, size, gpus.found)
    yield _elsewhere(config, size)


def _of_configuration(config: RunConfig, folder: Path, size: ModelSize | None, gpus: list[Gpu]) -> list[Check]:
    wanted = 0.0
    if size is not None:
        need = need_of(config, size, on_gpu=bool(gpus))
        versions = 0 if config.broker.weights == "direct" else config.broker.weights_kept + 1
        wanted = (config.checkpoint.keep + 1.0) * need.saved + versions * need.weights
    checks = [
        Check("disk", partial(machine.look_at_disk, config.path, wanted)),
        Check("model", partial(inputs.look_at_model, config, folder), inputs.DEADLINE_S),
        Check("rows", partial(inputs.look_at_rows, config), inputs.DEADLINE_S),
        Check("rewards", partial(inputs.look_at_rewards, config), inputs.DEADLINE_S),
        Check("sandbox", partial(inputs.look_at_sandbox, config)),
    ]
    if config.cluster.address is None:
        checks.append(Check("gpu shares", partial(look_at_shares, config, len(gpus))))
        checks.append(Check("memory", partial(_look_at_memory, config, size, gpus)))
    else:  # whose memory it is that the model needs, its nodes tell
        checks.append(Check("model size", partial(_look_at_size, config, size)))
    return checks


def _elsewhere(config: RunConfig, size: ModelSize | None) -> list[Check]:
    if config.broker.url is None:
        return [Check("redis", machine.look_at_own_redis)]
    url = with_credentials(config.broker.url)
    checks = [Check("redis", partial(redis.look_at_redis, config, url, bytes_in_redis(config, size)))]
    if config.cluster.address is not None:
        checks.append(Check("cluster", partial(cluster.look_at_cluster, config, url, size), cluster.DEADLINE_S))
    return checks


def _look_at_memory(config: RunConfig, size: ModelSize | None, gpus: list[Gpu]) -> Iterable[Finding]:
    smallest = min((gpu.memory_mib for gpu in gpus), default=0) * 2**20
    try:
        shares = shares_of(config, len(gpus))
    except ConfigError:  # which the check of the shares tells
        return []
    return look_at_memory(config, size, smallest, shares)


def _look_at_size(config: RunConfig, size: ModelSize | None) -> Iterable[Finding]:
    return [unknown(config)] if size is None else look_at_size(config, size)


def _size_of(config: RunConfig, folder: Path) -> ModelSize | None:
    """None where the model is not there; what is wrong with it is another check's to tell."""
    try:
        found = resolve_model(config.model.path, folder, pipeline=config.denoising is not None, convert=False)
    except ArealError:
        return None
    return size_of(str(found))


@contextmanager
def _quietly() -> Iterator[None]:
    """What a user's file prints is no finding; what is warned of elsewhere is one here."""
    logger = logging.getLogger("areal")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _put(screen: Screen, finding: Finding) -> None:
    mark, style = MARKS[finding.level]
    screen.put((mark, style), (f"{finding.check:<17} ", "dim"), " ".join(finding.seen.split()))
    if finding.remedy:
        screen.put(" " * len(mark), " " * 18, ("→ ", style), finding.remedy)


def _conclude(screen: Screen, findings: list[Finding]) -> None:
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if not problems and not warnings:
        screen.put(("\nall is well", "green"))
        return
    told = [plural(count, noun) for count, noun in ((problems, "problem"), (warnings, "warning")) if count]
    screen.put(("\n" + ", ".join(told), "bold red" if problems else "yellow"))
