"""Finds the Redis that holds a run, and the run's key there.

RUN is a run directory    its .id gives the key, its config.yaml the Redis: broker.url, or else the run's own, which
                          is started for as long as it is looked at if the run is not under way, nor about to be
RUN is (part of) a key    on the Redis of --broker
"""

import difflib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...broker.address import redacted
from ...broker.client import Client, connect
from ...broker.config import BrokerConfig
from ...broker.errors import ArealError
from ...broker.rollcall import Heard, RollCall
from ...broker.runs import list_runs
from ...broker.server import EmbeddedRedis, find_live
from ..config import load_broker_config
from ..records.rundir import CONFIG, DRIVER_LOG, IDENTITY, REDIS, as_argument, holder, read_key
from .look import GUARDED_S, look_into

ANSWER_S = 5.0
LOOK_S = 0.2
MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs are looked for: the folder of their directories, and a Redis named in place of theirs."""

    directory: Path = Path("runs")
    broker: str | None = None


@dataclass(frozen=True, slots=True)
class Located:
    """A run within reach.

    name: what RUN may be.
    redis: where its server is.
    lease_s: after how long a member that was not heard is silent.
    own: whether the server is the run's own.
    live: whether the server was up, and not started for this look alone.
    """

    name: str
    key: str
    client: Client
    redis: str
    lease_s: float = BrokerConfig().lease_s
    directory: Path | None = None
    own: bool = False
    live: bool = True

    def roll(self) -> list[Heard]:
        """The members of the run."""
        return RollCall(self.client, self.key, silent_after_s=self.lease_s).heard()


@contextmanager
def open_run(run: str, place: Place) -> Iterator[Located]:
    """The run that RUN names, its Redis kept within reach meanwhile. Raises ArealError, naming what there is instead."""
    directory = find_directory(run, place.directory)
    if place.broker is not None:
        with closing(connect(place.broker, timeout_s=ANSWER_S)) as client:
            where = redacted(place.broker)
            key = _key_on(client, run, directory, where)
            if directory is not None and key == read_key(directory):
                yield located_in(directory, client, place.broker, own=False)
            else:
                yield Located(key, key, client, where)
    elif directory is None:
        raise ArealError(f"{_missing(run, place.directory)} (for a run on a Redis of yours give --broker URL)")
    else:
        with _open_directory(directory) as located:
            yield located


def run_directories(folder: Path) -> list[Path]:
    """The run directories in a folder, by name. Raises ArealError where there is no such folder."""
    if not folder.is_dir():
        raise ArealError(f"there is no folder {folder}: name the one that holds the run directories with --directory")
    return sorted(path for path in folder.iterdir() if _is_run(path))


def find_directory(run: str, folder: Path) -> Path | None:
    """The run directory that RUN is the path of, or the name of in the folder; None if there is none."""
    places = [folder / run, Path(run)]
    if "/" in run:
        places.reverse()
    return next((path for path in places if _is_run(path)), None)


def require_directory(run: str, folder: Path) -> Path:
    """The same; raises ArealError, naming what there is instead."""
    directory = find_directory(run, folder)
    if directory is None:
        raise ArealError(_missing(run, folder))
    return directory


def shared_broker(directory: Path) -> str | None:
    """broker.url of a run directory, its user and password left to the environment; None for a Redis of its own."""
    url = _broker(directory).url
    # They were written down as stars, in the two places where a URL may have them.
    return url and re.sub(r"//\*\*\*@", "//", re.sub(r"\w*(username|password)=\*\*\*&?", "", url)).rstrip("?&")


def located_in(directory: Path, client: Client, url: str, *, own: bool) -> Located:
    """A run directory's run, on a Redis that has been reached."""
    key = read_key(directory)
    if key is None:
        raise ArealError(f"{directory} has no {IDENTITY}: no run has been started in it yet")
    lease_s = _broker(directory).lease_s
    return Located(as_argument(directory), key, client, redacted(url), lease_s, directory, own)


@contextmanager
def _open_directory(directory: Path) -> Iterator[Located]:
    url = shared_broker(directory)
    if url is not None:
        with closing(connect(url, timeout_s=ANSWER_S)) as client:
            yield located_in(directory, client, url, own=False)
        return
    with _own_redis(directory) as (url, live), closing(connect(url, timeout_s=ANSWER_S)) as client:
        yield replace(located_in(directory, client, url, own=True), live=live)


@contextmanager
def _own_redis(directory: Path) -> Iterator[tuple[str, bool]]:
    """The URL of the run's own server, and whether it was up, or its driver's to start; else it lives as long as this."""
    folder = directory / REDIS
    if url := _drivers_redis(directory):
        yield url, True
        return
    if not any(folder.glob("appendonly*")):
        raise ArealError(f"{directory} has no Redis data: nothing has been put into {folder} yet")
    server = EmbeddedRedis(folder)
    try:
        yield server.start(), False
    finally:
        server.stop()


def _drivers_redis(directory: Path) -> str | None:
    """The URL of the run's own server that is up, or that a driver is about to start; None where there is no such driver.

    A driver would fail on a server that was started here meanwhile. Raises ArealError where one starts none in GUARDED_S.
    """
    deadline = time.monotonic() + GUARDED_S
    while True:
        url, look = find_live(directory / REDIS), look_into(directory)
        if url is not None or not look.coming:
            return url
        if time.monotonic() > deadline:
            if not look.held:
                return None
            raise ArealError(
                f"{directory} is in use by {holder(directory) or 'another process'}, and the Redis there is not up after "
                f"{GUARDED_S:g} s: see {directory / 'logs' / DRIVER_LOG}, or wait for that process to end"
            )
        time.sleep(LOOK_S)


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _broker(directory: Path) -> BrokerConfig:
    return load_broker_config(directory / CONFIG)


def _key_on(client: Client, run: str, directory: Path | None, where: str) -> str:
    """The one key that RUN means: itself, that of the run directory it names, the name of a run, or part of one."""
    keys = list_runs(client)
    own = directory and read_key(directory)
    for meant in (
        [key for key in keys if key == run],
        [key for key in keys if key == own],
        [key for key in keys if run and key.rpartition("-")[0] == run],
        [key for key in keys if run and key.startswith(run)],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise ArealError(f"{run!r} may be any of {len(meant)} runs on redis at {where}: {_named(meant)}")
    instead = f"; {directory} has a Redis of its own: leave out --broker (or AREAL_BROKER_URL)" if directory else ""
    raise ArealError(f"there is no run {run!r} on redis at {where}{_instead(run, keys)}{instead}")


def _missing(run: str, folder: Path) -> str:
    looked = f"there is no run {run!r}: neither {Path(run)} nor {folder / run} is a run directory"
    if not folder.is_dir():
        return f"{looked}, and there is no folder {folder} (--directory)"
    return looked + _instead(run, [path.name for path in run_directories(folder)])


def _instead(run: str, names: Sequence[str]) -> str:
    """What there is in place of what was asked for, the nearest first."""
    if not names:
        return "; there are no runs"
    near = difflib.get_close_matches(run, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there: {_named(names)}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
