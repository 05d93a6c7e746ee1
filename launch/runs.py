"""`areal runs` and `areal purge`: which runs there are, who is at work for one, and the end of its keys."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rich.text import Text

from ..broker.address import redacted
from ..broker.bulletin import RUN, Bulletin
from ..broker.chunks import RedisChunks
from ..broker.client import Client, connect
from ..broker.errors import ArealError
from ..broker.keys import LANES, TRAIN
from ..broker.lane import Depth, Lane
from ..broker.rollcall import Heard
from ..broker.runs import count_keys
from ..broker.runs import purge as purge_keys
from ..broker.server import find_live
from ..broker.weights import WeightStore
from .locate import ANSWER_S, Located, Place, located_in, run_directories, shared_broker
from .records import Record
from .rundir import REDIS, SUMMARY, hold, read_summary
from .screen import DASH, Screen, Table, plural, safe, span, to_json

STYLES = {"running": "green", "starting": "cyan", "silent": "yellow", "stopped": "dim", "unknown": "red"}


@dataclass(frozen=True, slots=True)
class View:
    """A run as its Redis has it, or as its directory tells where that is not up.

    running    a member was heard within the lease time
    starting   none was yet, but the run's own Redis is up, and the order is to run
    silent     there are members on the roll, and none was heard within the lease time: they have died
    stopped    there are no members, or no Redis
    unknown    the note says why
    """

    name: str
    state: str
    where: str
    version: int | None = None
    keys: int | None = None
    dead: int | None = None
    lanes: Mapping[str, Depth] = field(default_factory=dict)
    roll: tuple[Heard, ...] = ()
    note: str = ""


def show_runs(place: Place, *, as_json: bool) -> int:
    """Print a line for each run, in the folder of run directories or on the Redis that is named."""
    with ExitStack() as opened:
        servers = _Servers(opened)
        views = list(_on_broker(place.broker, servers) if place.broker else _in_folder(place.directory, servers))
    if as_json:
        for view in views:
            print(to_json(_record(view)))
        return 0
    screen = Screen()
    if not views:
        screen.put(
            f"there are no runs {f'on redis at {redacted(place.broker)}' if place.broker else f'in {place.directory}/'}"
        )
        return 0
    counts = (">version", ">issued", ">prompts", ">groups", ">dead", ">keys")
    Table(screen, "run", "state", *counts, "roles", "where").put(map(_row, views))
    for view in views:
        if view.note:
            screen.put((f"\n{view.name}: {view.note}", "yellow"))
    return 0


def show_run(run: Located, *, as_json: bool) -> int:
    """Print the lanes of a run, and who is on its roll."""
    view = _look(run, count_keys(run.client)[run.key])
    if as_json:
        print(to_json(_record(view) | {"key": run.key, "redis": run.redis}))
        return 0
    screen = Screen()
    screen.put((run.name, "bold"), "  ", (view.state, STYLES[view.state]))
    facts = {"version": _shown(view.version), "redis": run.redis + _whose(run), "key": run.key}
    facts |= {"keys": _shown(view.keys)} | ({"directory": f"{run.directory}/"} if run.directory else {})
    for label, text in facts.items():
        screen.put((f"  {label:<11}", "dim"), text)
    screen.put("")
    lanes = Table(screen, "lane", ">issued", ">prompts", ">groups", ">dead", ">again", ">dropped", "")
    lanes.put([name, *(f"{count:,}" for count in asdict(depth).values()), ""] for name, depth in view.lanes.items())
    screen.put("")
    _put_roll(screen, view.roll)
    if view.dead:
        screen.put(f"\n{plural(view.dead, 'dead letter')}: areal dead list {run.name}")
    return 0


def purge(run: Located, *, yes: bool) -> int:
    """Delete all keys of a run that nobody works on, once a person has agreed. Raises ArealError."""
    _refuse_if_at_work(run)
    with hold(run.directory) if run.directory else nullcontext():  # so that no `areal run` begins meanwhile
        keys = count_keys(run.client)[run.key]
        screen = Screen()
        if not keys:
            screen.put(f"{run.name} has no keys on redis at {run.redis}")
            return 0
        if not yes and not _agreed(f"Delete the {plural(keys, 'key')} of {run.name} on redis at {run.redis}?"):
            screen.put("nothing was deleted")
            return 1
        _refuse_if_at_work(run)  # the answer may have taken its time
        gone = purge_keys(run.client, run.key)
    left = f"{run.directory}/" if run.directory else "the run directory"
    screen.put(f"{plural(gone, 'key')} of {run.name} deleted; {left} is left as it is")
    return 0


def _refuse_if_at_work(run: Located) -> None:
    alive = [heard.member for heard in run.roll() if not heard.silent]
    if alive:
        members = ", ".join(f"{member.name} (process {member.pid} on {member.host})" for member in alive)
        raise ArealError(
            f"{run.name} is not purged, as it is at work: {members} {'was' if len(alive) == 1 else 'were'} heard within "
            f"the last {run.lease_s:g} s. Stop it first (Ctrl-C where it was started), or wait if it has just died"
        )


def _agreed(question: str) -> bool:
    """Whether a person says yes; raises ArealError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ArealError("nothing was deleted: there is no terminal to ask on, and --yes was not given")
    try:
        return input(f"{safe(question)} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


# Looking


class _Servers:
    """The Redis servers that hold the runs, each asked once, were it in vain."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self._answers: dict[str, tuple[Client, Counter[str]] | ArealError] = {}

    def ask(self, url: str) -> tuple[Client, Counter[str]]:
        """A client, and how many keys each run has there. Raises ArealError."""
        if url not in self._answers:
            try:
                client = self._opened.enter_context(closing(connect(url, timeout_s=ANSWER_S)))
                self._answers[url] = client, count_keys(client)
            except ArealError as error:
                self._answers[url] = error
        answer = self._answers[url]
        if isinstance(answer, ArealError):
            raise answer
        return answer


def _on_broker(url: str, servers: _Servers) -> Iterator[View]:
    client, counts = servers.ask(url)
    for key in sorted(counts):
        yield _look(Located(key, key, client, redacted(url)), counts[key])


def _in_folder(folder: Path, servers: _Servers) -> Iterator[View]:
    for directory in run_directories(folder):
        try:
            yield _glance(directory, servers)
        except ArealError as error:
            yield View(directory.name, "unknown", f"{directory}/", note=str(error))


def _glance(directory: Path, servers: _Servers) -> View:
    """The run of a directory, without starting a server for it."""
    shared = shared_broker(directory)
    url = shared or find_live(directory / REDIS)
    if url is None:
        return _from_summary(directory)
    client, counts = servers.ask(url)
    run = located_in(directory, client, url, own=shared is None)
    return _look(run, counts[run.key]) if counts[run.key] else _from_summary(directory)


def _from_summary(directory: Path) -> View:
    summary = read_summary(directory / SUMMARY)
    version, dead = summary.get("version"), summary.get("dead_letters")
    return View(directory.name, "stopped", f"{directory}/", version=version, dead=dead)


def _look(run: Located, keys: int) -> View:
    """The run as its Redis has it."""
    newest = WeightStore(run.client, run.key, RedisChunks(run.client, run.key)).latest()
    lanes = {name: Lane(run.client, run.key, name).depth() for name in LANES}
    roll = tuple(run.roll())
    return View(
        name=run.directory.name if run.directory else run.name,
        state=_state(run, roll),
        where=f"{run.directory}/" if run.directory and run.own else run.redis,
        version=newest.version if newest else None,
        keys=keys,
        dead=sum(depth.dead for depth in lanes.values()),
        lanes=lanes,
        roll=roll,
    )


def _state(run: Located, roll: tuple[Heard, ...]) -> str:
    if run.live and any(not heard.silent for heard in roll):
        return "running"
    if roll:
        return "silent"
    starting = run.own and run.live and Bulletin(run.client, run.key).ordered() == RUN
    return "starting" if starting else "stopped"


# Printing


def _row(view: View) -> list[str | Text]:
    train = view.lanes.get(TRAIN)
    counts = (train.issued, train.prompts, train.groups) if train else (None,) * 3
    silent = sum(heard.silent for heard in view.roll)
    roles = f"{len(view.roll) - silent}" + (f", {silent} silent" if silent else "") if view.lanes else DASH
    numbers = map(_shown, (view.version, *counts, view.dead, view.keys))
    return [view.name, Text(view.state, STYLES[view.state]), *numbers, roles, view.where]


def _whose(run: Located) -> str:
    if not run.own:
        return ""
    return ", its own" if run.live else ", its own, up for this look alone"


def _put_roll(screen: Screen, roll: tuple[Heard, ...]) -> None:
    if not roll:
        screen.put("nobody is at work for it")
        return
    table = Table(screen, "name", "role", "host", ">pid", ">version", ">heard", ">active", "")
    table.put(
        [
            *(heard.member.name, heard.member.role, heard.member.host, str(heard.member.pid)),
            _shown(heard.member.version if heard.member.version >= 0 else None),
            f"{span(heard.ago_s)} ago",
            f"{span(time.time() - heard.member.active_at)} ago",
            Text("silent", STYLES["silent"]) if heard.silent else "",
        ]
        for heard in roll
    )


def _shown(count: int | None) -> str:
    return DASH if count is None else f"{count:,}"


def _record(view: View) -> Record:
    roll = [asdict(heard.member) | {"heard_ago_s": heard.ago_s, "silent": heard.silent} for heard in view.roll]
    lanes = {name: asdict(depth) for name, depth in view.lanes.items()}
    return {each.name: getattr(view, each.name) for each in fields(view)} | {"roll": roll, "lanes": lanes}
