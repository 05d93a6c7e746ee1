"""What an actor tells the process of its role, and what it makes of how that ends."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from areal.broker.errors import ArealError, ConfigError, ProcessDied, RoleDied
from areal.launch.cluster.actor import Cargo, RoleActor, Seat
from areal.launch.roles import RoleSpec
from areal.rewards.shipped import FOLDER


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoleActor:
    """Of a role on the node 10.1.2.3, whose Ray is led from 10.1.2.9."""
    ray = SimpleNamespace(
        util=SimpleNamespace(get_node_ip_address=lambda: "10.1.2.3"),
        get_runtime_context=lambda: SimpleNamespace(
            gcs_address="10.1.2.9:6379", get_node_id=lambda: "n3", runtime_env={"py_modules": ["gcs://pkg.zip"]}
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    return RoleActor(spec(tmp_path))


def spec(directory: Path, config: dict[str, Any] | None = None, **environment: str) -> RoleSpec:
    return RoleSpec("learner", config or {}, "model", "redis://x", str(directory), "key-77", environment=environment)


def be(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes of roles do this; `tell` is the file descriptor that they report to."""
    script = tmp_path / "role"
    script.write_text(f"#!{sys.executable}\nimport os, sys\ntell = int(sys.argv[-1])\n{body}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_role_is_told_the_address_of_its_node(
    actor: RoleActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be("print(sys.stdin.read())\nprint(os.environ['RAY_ADDRESS'])", tmp_path, monkeypatch)
    actor.run()
    spec, address = (tmp_path / "logs" / "learner.log").read_text().splitlines()
    assert json.loads(spec)["host"] == "10.1.2.3" and address == "10.1.2.9:6379"


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("os.kill(os.getpid(), 9)", ProcessDied, "ended by signal SIGKILL without a word"),
        ("sys.exit(3)", ProcessDied, "ended by exit code 3 without a word"),
        ("""os.write(tell, b'{"kind": "KeyError", "text": "x"}'); sys.exit(1)""", ProcessDied, "KeyError: x"),
        ("""os.write(tell, b'{"kind": "ConfigError", "text": "x"}'); sys.exit(1)""", ConfigError, "x"),
        ("""os.write(tell, b'{"kind": "RoleDied", "text": "the other"}'); sys.exit(1)""", RoleDied, "the other"),
    ],
)
def test_only_a_role_itself_says_that_another_died(
    actor: RoleActor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    kind: type[ArealError],
    says: str,
) -> None:
    be(body, tmp_path, monkeypatch)
    with pytest.raises(ArealError, match=says) as caught:
        actor.run()
    assert type(caught.value) is kind


def environment_of(actor: RoleActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of the process of its role, with where that stands as PWD and what it was told as TOLD."""
    be(
        "import json\nprint(json.dumps({**os.environ, 'PWD': os.getcwd(), 'TOLD': sys.stdin.read()}))",
        tmp_path,
        monkeypatch,
    )
    actor.run()
    environment: dict[str, str] = json.loads((tmp_path / "logs" / "learner.log").read_text().splitlines()[-1])
    return environment


def test_a_role_has_the_environment_that_is_configured_for_it(
    actor: RoleActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"learner": {"MKL_NUM_THREADS": "3", "PYTHONPATH": "/mine"}, "rollout": {"OTHER": "x"}}
    actor = RoleActor(spec(tmp_path, {"cluster": {"env": env}}, JUDGE_KEY="k3y"))
    found = environment_of(actor, tmp_path, monkeypatch)
    assert found["MKL_NUM_THREADS"] == "3" and found["JUDGE_KEY"] == "k3y" and "OTHER" not in found
    assert found["PYTHONPATH"].endswith(":/mine") and str(Path(__file__).parents[3]) in found["PYTHONPATH"]
    assert set(found["AREAL_PASSED"].split(",")) == {"MKL_NUM_THREADS", "PYTHONPATH", "JUDGE_KEY"}
    assert "AREAL_SHIPPED" not in found and "k3y" not in repr(actor) + repr(spec(tmp_path, JUDGE_KEY="k3y"))


def test_a_role_finds_what_was_shipped_where_its_node_has_it(
    actor: RoleActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pkg" / FOLDER
    (folder / "0" / "here").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder.parent)])
    config = {"rewards": {"functions": [{"name": "/home/me/mine.py:f"}]}}
    actor = RoleActor(spec(tmp_path, config), Cargo({"/home/me": "0"}, "/home/me/here"))
    found = environment_of(actor, tmp_path, monkeypatch)
    assert json.loads(found["TOLD"])["config"]["rewards"]["functions"][0]["name"] == f"{folder}/0/mine.py:f"
    assert found["PWD"] == str(folder / "0" / "here") and found["AREAL_SHIPPED"] == str(folder)
    assert json.loads(found["AREAL_RUNTIME_ENV"]) == {"py_modules": ["gcs://pkg.zip"]}


def test_a_seat_tells_whether_the_run_directory_is_the_drivers(actor: RoleActor, tmp_path: Path) -> None:
    assert actor.seat() == Seat("n3", "10.1.2.3", shares_directory=False)
    (tmp_path / ".id").write_text("78\n")
    assert not actor.seat().shares_directory
    (tmp_path / ".id").write_text("77\n")
    assert actor.seat().shares_directory


def test_its_log_is_told_from_where_the_role_began(
    tmp_path: Path, actor: RoleActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    be("print('now')", tmp_path, monkeypatch)
    assert actor.log_since(0) == b""
    actor.run()
    again = RoleActor(spec(tmp_path))
    again.run()
    assert actor.log_since(0) == b"now\nnow\n" and again.log_since(0) == b"now\n" and again.log_since(2) == b"w\n"
