"""`areal status`: which runs there are, and how one does."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from rich.text import Text

from ...broker.address import redacted
from ...broker.bulletin import RUN, Bulletin
from ...broker.chunks import RedisChunks
from ...broker.client import Client, connect
from ...broker.errors import ArealError
from ...broker.helm import Driving
from ...broker.keys import LANES, TRAIN
from ...broker.lane import Depth, Lane
from ...broker.rollcall import Heard
from ...broker.runs import count_keys
from ...broker.server import find_live
from ...broker.weights import WeightStore
from ..records.rundir import REDIS, SUMMARY, as_argument, read_summary
from ..records.tally import Record
from ..screen import DASH, Screen, Table, plural, span, to_json
from .locate import ANSWER_S, Located, Place, located_in, open_run, require_directory, run_directories, shared_broker
from .look import look_into
from .standing import GONE, Standing, standing_in, standing_on

STYLES = {
    "starting": "cyan",
    "running": "green",
    "draining": "cyan",
    "silent": "yellow",
    "stopped": "dim",
    "done": "dim",
    GONE: "yellow",
    "failed": "red",
    "unknown": "red",
}


@dataclass(frozen=True, slots=True)
class View:
    """A run as its directory and its Redis have it.

    starting   its driver is there, and no role has done any work yet
    running    roles are at work
    draining   they are ending
    done       it has taken all its steps
    stopped    it was stopped before that; or it was never driven
    failed     it ended on an error, which the note tells
    gone       its driver was killed; nothing of it goes on
    unknown    the note says why

    Of a run that no driver of this version has driven, its roles tell: running while one was heard within the lease time, else
    silent while there are any on the roll, else starting while its own Redis is up and the order is to run.
    """

    name: str
    state: str
    where: str
    step: int | None = None
    steps: int | None = None
    reward: float | None = None
    staleness: float | None = None
    version: int | None = None
    keys: int | None = None
    dead: int | None = None
    lanes: Mapping[str, Depth] = field(default_factory=dict)
    roll: tuple[Heard, ...] = ()
    driver: Driving | None = None
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
    counts = (">step", ">reward", ">staleness", ">prompts", ">groups", ">dead", ">keys")
    Table(screen, "run", "state", *counts, "roles", "where").put(map(_row, views))
    for view in views:
        if view.note:
            screen.put((f"\n{view.name}: {view.note}", "yellow"))
    return 0


def show_run(run: str, place: Place, *, as_json: bool) -> int:
    """Print how a run does, what its lanes hold and who is on its roll."""
    directory = None if place.broker is not None else require_directory(run, place.directory)
    if directory is not None and _has_no_redis(directory):
        return _show(as_argument(directory), _from_files(directory), {"directory": f"{directory}/"}, as_json=as_json)
    with open_run(run, place) as located:
        view = _look(located, count_keys(located.client)[located.key])
        more = {"key": located.key, "redis": located.redis}
        if as_json:
            return _show(located.name, view, more, as_json=True)
        facts = {"version": _shown(view.version), "redis": located.redis + _whose(located), "key": located.key}
        facts |= {"keys": _shown(view.keys)} | ({"directory": f"{located.directory}/"} if located.directory else {})
        return _show(located.name, view, facts, as_json=False)


def _show(name: str, view: View, facts: Mapping[str, str], *, as_json: bool) -> int:
    if as_json:
        print(to_json(_record(view) | dict(facts)))
        return 0
    screen = Screen()
    screen.put((name, "bold"), "  ", (view.state, STYLES[view.state]))
    for label, text in [*_progress(view), *facts.items()]:
        screen.put((f"  {label:<11}", "dim"), text)
    if view.lanes:
        screen.put("")
        lanes = Table(screen, "lane", ">issued", ">prompts", ">groups", ">dead", ">again", ">dropped", "")
        lanes.put([each, *(f"{count:,}" for count in asdict(depth).values()), ""] for each, depth in view.lanes.items())
    screen.put("")
    _put_roll(screen, view.roll)
    if view.note:
        screen.put((f"\n{view.note}", "yellow"))
    if view.dead:
        screen.put(f"\n{plural(view.dead, 'dead letter')}: areal dead list {name}")
    return 0


def _progress(view: View) -> Iterator[tuple[str, str]]:
    if view.step is not None:
        reward, staleness = _rounded(view.reward), _rounded(view.staleness)
        yield "step", f"{view.step} of {_shown(view.steps)}, reward {reward}, staleness {staleness}"
    driver = view.driver
    if driver is not None and not driver.ended and view.state != GONE:
        guard = "" if driver.guard is None else f", guarded by process {driver.guard}"
        since = span(time.time() - driver.started_at)
        yield "driver", f"process {driver.pid} on {driver.host}, started {since} ago{guard}"


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
        return _from_files(directory)
    client, counts = servers.ask(url)
    run = located_in(directory, client, url, own=shared is None)
    return _look(run, counts[run.key]) if counts[run.key] else _from_files(directory)


def _has_no_redis(directory: Path) -> bool:
    """Whether the Redis of its own is not up, and must not be started for a look: its driver is about to, or it has no data."""
    folder = directory / REDIS
    if shared_broker(directory) is not None or find_live(folder) is not None:
        return False
    return look_into(directory).coming or not any(folder.glob("appendonly*"))


def _from_files(directory: Path) -> View:
    summary = read_summary(directory / SUMMARY)
    view = View(
        directory.name,
        "stopped",
        f"{directory}/",
        version=summary.get("version"),
        dead=summary.get("dead_letters"),
    )
    return _standing(view, standing_in(directory))


def _standing(view: View, standing: Standing) -> View:
    """With what its driver tells."""
    return replace(
        view,
        state=standing.state or view.state,
        step=standing.step,
        steps=standing.steps,
        reward=standing.reward,
        staleness=standing.staleness,
        driver=standing.driving,
        note=standing.note,
    )


def _look(run: Located, keys: int) -> View:
    """The run as its Redis has it."""
    newest = WeightStore(run.client, run.key, RedisChunks(run.client, run.key)).latest()
    lanes = {name: Lane(run.client, run.key, name).depth() for name in LANES}
    roll = tuple(run.roll())
    view = View(
        name=run.directory.name if run.directory else run.name,
        state=_state(run, roll),
        where=f"{run.directory}/" if run.directory and run.own else run.redis,
        version=newest.version if newest else None,
        keys=keys,
        dead=sum(depth.dead for depth in lanes.values()),
        lanes=lanes,
        roll=roll,
    )
    return _standing(view, standing_in(run.directory) if run.directory else standing_on(run.client, run.key))


def _state(run: Located, roll: tuple[Heard, ...]) -> str:
    """What its roles tell."""
    if run.live and any(not heard.silent for heard in roll):
        return "running"
    if roll:
        return "silent"
    starting = run.own and run.live and Bulletin(run.client, run.key).ordered() == RUN
    return "starting" if starting else "stopped"


# Printing


def _row(view: View) -> list[str | Text]:
    train = view.lanes.get(TRAIN)
    counts = (train.prompts, train.groups) if train else (None, None)
    silent = sum(heard.silent for heard in view.roll)
    roles = f"{len(view.roll) - silent}" + (f", {silent} silent" if silent else "") if view.lanes else DASH
    step = DASH if view.step is None else f"{view.step:,}/{_shown(view.steps)}"
    numbers = (step, _rounded(view.reward), _rounded(view.staleness), *map(_shown, (*counts, view.dead, view.keys)))
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


def _rounded(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _record(view: View) -> Record:
    roll = [asdict(heard.member) | {"heard_ago_s": heard.ago_s, "silent": heard.silent} for heard in view.roll]
    lanes = {name: asdict(depth) for name, depth in view.lanes.items()}
    driver = None if view.driver is None else asdict(view.driver)
    told = {each.name: getattr(view, each.name) for each in fields(view)}
    return told | {"roll": roll, "lanes": lanes, "driver": driver}
