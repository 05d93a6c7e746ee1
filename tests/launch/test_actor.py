"""What an actor tells the process of its role, and what it makes of how that ends."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from areal.broker.errors import ArealError, ConfigError, ProcessDied, RoleDied
from areal.launch.actor import RoleActor
from areal.launch.roles import RoleSpec


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoleActor:
    """Of a role on the node 10.1.2.3, whose Ray is led from 10.1.2.9."""
    ray = SimpleNamespace(
        util=SimpleNamespace(get_node_ip_address=lambda: "10.1.2.3"),
        get_runtime_context=lambda: SimpleNamespace(gcs_address="10.1.2.9:6379"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    return RoleActor(RoleSpec("learner", {}, "model", "redis://x", str(tmp_path), "key"))


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
