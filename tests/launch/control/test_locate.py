"""Which Redis a run is on, and under what key: every way to say it, and what is said of those that lead nowhere."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from areal.broker.address import redacted
from areal.broker.client import Client, connect
from areal.broker.dead import DeadLetters
from areal.broker.errors import ArealError
from areal.broker.lane import Depth, Lane
from areal.broker.runs import purge
from areal.broker.server import EmbeddedRedis, find_live
from areal.launch.control.locate import Place, find_directory, open_run, shared_broker
from areal.launch.driver.logbook import Logbook
from areal.launch.records.rundir import as_argument, hold

from ..conftest import Areal
from ..stage import Stage, make_directory


@pytest.fixture
def own(here: Path) -> Iterator[Path]:
    """A run directory whose own Redis has been stopped, with a dead letter and a live weight in it."""
    path = here / "runs" / "own"
    key = make_directory(path)
    server = EmbeddedRedis(path / "redis")
    with connect(server.start()) as client:
        Stage(client, key).bury("one", "two")
    server.stop()
    yield path


@pytest.fixture
def prefix(client: Client) -> Iterator[str]:
    """Runs of this test have keys that begin so, and go with it."""
    made = f"p{uuid.uuid4().hex[:8]}"
    yield made
    for name in ("one", "two", "sort"):
        for identity in ("0123456789ab", "ba9876543210"):
            purge(client, f"{made}{name}-{identity}")


def key_of(run: str, place: Place) -> str:
    with open_run(run, place) as located:
        return located.key


def refusal(run: str, place: Place = Place()) -> str:  # noqa: B008 - it is frozen
    with pytest.raises(ArealError) as caught, open_run(run, place):
        pass
    return str(caught.value)


def test_a_run_is_its_directory_however_that_is_said(stage: Stage, here: Path, run: str, redis_url: str) -> None:
    for said in (run, f"runs/{run}", f"./runs/{run}/", str(here / "runs" / run)):
        with open_run(said, Place()) as located:
            assert located.key == stage.key and located.name == run and located.directory is not None
            assert (located.own, located.live, located.lease_s) == (False, True, 2.0)
            assert "@" not in located.redis and located.redis in redis_url
    with open_run(run, Place(here / "runs")) as located:
        assert located.key == stage.key
    make_directory(here / "elsewhere" / "other", url="redis://127.0.0.1:1/0")
    assert find_directory("other", here / "elsewhere") == here / "elsewhere" / "other"
    assert find_directory("other", here / "runs") is None


def test_a_name_is_looked_up_in_the_folder_first_and_a_path_from_here(here: Path) -> None:
    for folder in ("runs", "."):
        make_directory(here / folder / "twice")
    assert find_directory("twice", Path("runs")) == Path("runs/twice")
    assert find_directory("./twice", Path("runs")) == Path("twice")


def test_a_directory_is_named_as_the_commands_take_it(here: Path) -> None:
    assert as_argument(Path("runs/sort")) == as_argument(here / "runs" / "sort") == "sort"
    assert as_argument(Path("runs/a b")) == "'a b'"
    assert as_argument(Path("other/sort")) == "other/sort"
    assert as_argument(Path("/somewhere/runs/sort")) == "/somewhere/runs/sort"


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("redis://***@host:7000/1", "redis://host:7000/1"),
        ("redis://host:7000/0", "redis://host:7000/0"),
        ("rediss://***@host/0?ssl_ca_certs=/ca.pem", "rediss://host/0?ssl_ca_certs=/ca.pem"),
        ("unix:///run/redis.sock?username=***&password=***", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?password=***&db=3", "unix:///run/redis.sock?db=3"),
        ("redis+sentinel://***@a:1,b:2/m/0?sentinel_password=***", "redis+sentinel://a:1,b:2/m/0"),
        ("null", None),
    ],
)
def test_the_stars_in_a_written_url_are_left_to_the_environment(here: Path, written: str, wanted: str | None) -> None:
    make_directory(here / "runs" / "a", config=f"broker: {{url: '{written}'}}" if wanted else "seed: 1\n")
    assert shared_broker(here / "runs" / "a") == wanted


def test_without_the_password_the_variables_are_named(stage: Stage, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AREAL_REDIS_PASSWORD")
    assert "AREAL_REDIS_USERNAME and AREAL_REDIS_PASSWORD" in refusal(run)


def test_a_stopped_runs_own_redis_is_started_for_the_moment(own: Path, areal: Areal) -> None:
    with open_run("own", Place()) as located:
        assert (located.own, located.live, located.directory) == (True, False, Path("runs/own"))
        assert find_live(own / "redis") is not None
        letter, _ = DeadLetters(located.client, located.key, "train").list()
        assert areal("dead", "list", "own")[1].count("\n") == 5, "another command finds the server that is up"
    assert find_live(own / "redis") is None
    assert areal("dead", "retry", "own", letter.entry)[0] == areal("dead", "drop", "own", "--all")[0] == 0
    with open_run("own", Place()) as located:
        assert Lane(located.client, located.key, "train").depth() == Depth(2, 0, 0, 0, again=1, dropped=1), "on disk"
    assert areal("dead", "list", "own")[1] == "own has no dead letters\n"
    assert find_live(own / "redis") is None


def test_a_running_runs_own_redis_is_asked(own: Path, areal: Areal) -> None:
    server = EmbeddedRedis(own / "redis")
    url = server.start()
    with open_run("own", Place()) as located:
        assert (located.own, located.live) == (True, True) and located.redis in url
    assert server.alive and areal("dead", "list", "own")[0] == 0 and server.alive
    server.stop()


def test_the_redis_that_a_driver_is_about_to_start_is_waited_for(own: Path) -> None:
    found: list[tuple[bool, str]] = []

    def look() -> None:
        with open_run("own", Place()) as located:
            found.append((located.live, located.redis))

    with hold(own):
        thread = threading.Thread(target=look)
        thread.start()
        time.sleep(0.5)
        server = EmbeddedRedis(own / "redis")
        url = server.start()
        thread.join(20)
        server.stop()
    assert found == [(True, redacted(url))]


def test_waiting_for_the_redis_of_a_driver_has_an_end(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("areal.launch.control.locate.GUARDED_S", 0.5)
    with hold(own):
        said = refusal("own")
        assert f"runs/own is in use by process {os.getpid()} on " in said and "not up after 0.5 s" in said
    assert find_live(own / "redis") is None
    with open_run("own", Place()) as located:
        assert not located.live


def test_the_next_driver_of_a_guard_is_waited_for_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("areal.launch.control.locate.GUARDED_S", 0.5)
    monkeypatch.setattr("areal.launch.control.locate.time.sleep", slept.append)
    Logbook(own, run="own", guard=os.getpid())
    with open_run("own", Place()) as located:
        assert not located.live and slept, "none has come"


def test_what_a_server_left_that_was_killed_is_not_believed(own: Path, areal: Areal) -> None:
    server = EmbeddedRedis(own / "redis")
    server.start()
    os.kill(server.pid, signal.SIGKILL)
    assert server._process is not None and server._lock is not None
    server._process.wait()
    os.close(server._lock)  # as the driver's end does
    server._lock = None
    assert (own / "redis" / "url").exists()
    assert areal("dead", "list", "own")[1].splitlines()[-1].startswith("2 dead letters")
    assert not (own / "redis" / "url").exists()


def test_the_server_ends_with_a_command_that_is_killed(own: Path) -> None:
    program = (
        "import sys, time; from areal.launch.control.locate import Place, open_run\n"
        "with open_run('own', Place()) as located:\n"
        "    print(located.client.info('server')['process_id'], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        os.kill(pid, 0)
        command.kill()
    with open_run("own", Place()) as located:
        assert located.client.info("server")["process_id"] != pid


def test_a_directory_without_data_is_refused_and_gets_none(here: Path) -> None:
    make_directory(here / "runs" / "new")
    assert refusal("new") == "runs/new has no Redis data: nothing has been put into runs/new/redis yet"
    assert not (here / "runs" / "new" / "redis").exists()


def test_a_directory_without_identity_is_refused(stage: Stage, here: Path, run: str) -> None:
    (here / "runs" / run / ".id").unlink()
    assert refusal(run) == f"runs/{run} has no .id: no run has been started in it yet"
    assert not (here / "runs" / run / ".id").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("broker: {lease_s: soon}\n", "broker.lease_s: Input should be"),
        ("broker: {uri: x}\n", "unknown key broker.uri; did you mean broker.url?"),
        ("broker: 3\n", "broker: Input should be"),
        ("[", "config.yaml"),
        ("broker: {url: 'http://x'}\n", "broker.url is not of the form"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(here: Path, config: str, says: str, areal: Areal) -> None:
    make_directory(here / "runs" / "odd", config=config)
    code, out, err = areal("dead", "list", "odd")
    assert (code, out) == (2, "") and says in err
    code, out, _ = areal("runs")
    assert code == 0 and "odd  unknown" in out and says in out


def test_a_server_that_does_not_answer_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("areal.launch.control.locate.ANSWER_S", 0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        make_directory(here / "runs" / "away", url=f"redis://127.0.0.1:{port}/0")
        assert f"redis at 127.0.0.1:{port} did not answer PING" in refusal("away")
        assert f"redis at 127.0.0.1:{port} did not answer" in refusal("x", Place(broker=f"redis://127.0.0.1:{port}/0"))


def test_a_name_that_no_directory_has_is_answered_with_the_nearest(here: Path) -> None:
    assert refusal("sort") == (
        "there is no run 'sort': neither sort nor runs/sort is a run directory, and there is no folder runs "
        "(--directory) (for a run on a Redis of yours give --broker URL)"
    )
    (here / "runs").mkdir()
    assert "; there are no runs (for" in refusal("sort")
    for name in "abcdefghij":
        make_directory(here / "runs" / (name * 8))
    (here / "runs" / "no run").mkdir()
    assert "did you mean aaaaaaaa?" in refusal("aaaaaaa")
    assert "; there: aaaaaaaa, bbbbbbbb, " in refusal("sort") and "hhhhhhhh and 2 more (for" in refusal("sort")
    for odd in ("", "/", ".", "..", "no run", "*"):
        assert "is a run directory" in refusal(odd)


def test_a_key_is_known_by_itself_by_its_name_or_by_its_beginning(
    here: Path, client: Client, redis_url: str, prefix: str
) -> None:
    keys = {name: f"{prefix}{name}-0123456789ab" for name in ("one", "two")}
    for key in keys.values():
        Stage(client, key)
    place = Place(broker=redis_url)
    for said in (keys["one"], f"{prefix}one", f"{prefix}o", f"{prefix}one-01"):
        assert key_of(said, place) == keys["one"]
    with open_run(f"{prefix}t", place) as located:
        assert located.name == located.key == keys["two"] and located.directory is None and not located.own
    assert refusal(prefix, place) == (
        f"{prefix!r} may be any of 2 runs on redis at {located.redis}: {keys['one']}, {keys['two']}"
    )
    Stage(client, f"{prefix}one-ba9876543210")
    assert "may be any of 2 runs" in refusal(f"{prefix}one", place)
    said = refusal(f"{prefix}tow-0123456789ab", place)
    assert said.startswith(f"there is no run '{prefix}tow-0123456789ab' on redis at") and "did you mean" in said
    assert "there is no run ''" in refusal("", place)


def test_a_run_directory_gives_the_key_on_a_redis_that_is_named(
    here: Path, client: Client, redis_url: str, prefix: str, own: Path
) -> None:
    mine = make_directory(here / "runs" / f"{prefix}sort", url="redis://not-reached-from-here:1/0")
    for identity in ("0123456789ab", "ba9876543210"):
        Stage(client, f"{prefix}sort-{identity}")
    assert key_of(f"{prefix}sort", Place(broker=redis_url)) == mine
    assert "runs/own has a Redis of its own: leave out --broker (or AREAL_BROKER_URL)" in refusal(
        "own", Place(broker=redis_url)
    )


def test_the_redis_may_be_named_in_the_environment(
    stage: Stage, areal: Areal, shared: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.bury("one")
    monkeypatch.setenv("AREAL_BROKER_URL", shared.replace("***@", ""))
    monkeypatch.chdir("/")
    code, out, _ = areal("dead", "list", stage.key)
    assert code == 0 and f"areal dead show {stage.key} ENTRY" in out
    monkeypatch.setenv("AREAL_BROKER_URL", "redis://user:secret@nowhere:port/0")
    code, out, err = areal("dead", "list", stage.key)
    assert code == 2 and "broker.url is not of the form" in err and "secret" not in out + err
    assert "secret" not in areal("dead", "list", "--help")[1]
