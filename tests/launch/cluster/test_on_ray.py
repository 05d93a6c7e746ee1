"""Roles on a real Ray of several nodes: where they are, what they are given, and what becomes of them when a node dies."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from areal.broker.errors import ConfigError
from areal.launch.cluster.shipping import shipment_of
from areal.launch.cluster.supervisor import Supervisor
from areal.launch.config import RunConfig, load_run_config
from areal.launch.roles import RoleSpec

from ..raylets import Nodes, Stage, loopback

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"),
]

PASSWORD, KEY = "pa55-of-redis", "k3y-of-a-judge"
WRITTEN = """
run: mine
model: {path: models/sort}
dataset: {source: sort}
rewards: {functions: [{name: ./my_reward.py:count}]}
broker: {url: redis://head:6379/0}
"""

REWARD = """
import os, words

def count(completion):
    return len(words.of(completion)) + len(os.environ["JUDGE_KEY"])
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head where learners may be, and a node for rollout workers."""
    pytest.importorskip("ray")
    with loopback():
        made = Nodes(train=2)
        made.add(gen=1)
        yield made
        made.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A configuration with a reward, and a module that this imports."""
    made = tmp_path / "home"
    made.mkdir()
    (made / "run.yaml").write_text(WRITTEN)
    (made / "my_reward.py").write_text(REWARD)
    (made / "words.py").write_text("def of(text):\n    return text.split()\n")
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The run's, as all nodes see it."""
    made = tmp_path / "runs" / "mine"
    made.mkdir(parents=True)
    (made / ".id").write_text("77")
    return made


def configured(home: Path, *overrides: str, **resources: str) -> RunConfig:
    wanted = [f"cluster.resources.{role}.custom={{{name}: 1}}" for role, name in resources.items()]
    return load_run_config(home / "run.yaml", [f"directory={home.parent / 'runs'}", *wanted, *overrides])


def staged(config: RunConfig, directory: Path, *, ranks: int = 1, **more: Any) -> Stage:
    """The roles of a run, started."""
    tree = config.model_dump(mode="json") | {"ends_with": str(directory / "ends")} | more
    url = f"redis://:{PASSWORD}@head:6379/0"

    def role(name: str) -> RoleSpec:
        return RoleSpec(name, tree, "model", url, str(directory), "mine-77", environment={"JUDGE_KEY": KEY})

    learners = [role("learner"), *(role(f"learner-{rank}") for rank in range(1, ranks))]
    companies, shipment = [learners, [role("rollout-0")]], shipment_of(config)
    stage = Stage(Supervisor(config.cluster, companies, gpus_per_engine=1, shipment=shipment, heard=list), directory)
    try:
        stage.supervisor.start()
    except BaseException:
        stage.supervisor.stop()
        raise
    return stage


@pytest.mark.parametrize("by", ["address", "client"])
def test_files_of_the_user_are_brought_to_other_nodes_and_nothing_secret(
    nodes: Nodes, home: Path, directory: Path, by: str
) -> None:
    """Where the rewards are computed by Ray, they are on the learner's node."""
    env = "cluster.env.rollout={MALLOC_ARENA_MAX: 2}"
    more = ["rewards.where=ray", "rewards.resources={custom: {train: 1}}"] if by == "address" else []
    config = configured(
        home, f"cluster.address={getattr(nodes, by)}", "cluster.affinity=apart", env, *more, rollout="gen"
    )
    stage = staged(config, directory)
    try:
        worker, learner = stage.said("rollout-0"), stage.said("learner")
        assert (
            worker["reward"] == 3 + len(KEY) and "areal_shipped" in worker["file"] and str(home) not in worker["file"]
        )
        assert worker["node"] != learner["node"]
        environments = worker["environment"], learner["environment"]
        assert [each["MALLOC_ARENA_MAX"] for each in environments] == ["2", None]
        assert {each["JUDGE_KEY"] for each in environments} == {KEY}
        assert json.loads(worker["environment"]["AREAL_RUNTIME_ENV"]).keys() == {"py_modules"}
        assert stage.told == [f"shipping to the nodes (3 files, 1 KiB): {home}"]
        if by == "address":
            assert worker["scored"] == 2 + len(KEY)
            assert_nothing_is_shown(directory)
        (directory / "ends").touch()
        stage.until(stage.supervisor.all_done)
    finally:
        stage.supervisor.stop()


def assert_nothing_is_shown(directory: Path) -> None:
    """By Ray's tables, from which its dashboard is made, by the command lines of processes, or by files of the run."""
    import ray
    from ray._private.state import state

    shown = [str(ray.get_runtime_context().runtime_env), str(state.actor_table(None)), str(state.job_table())]
    shown += [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
    shown += [file.read_text() for file in directory.rglob("*") if file.is_file() and file.suffix != ".log"]
    assert "RoleActor" in "".join(shown) or "Player" in "".join(shown)
    assert PASSWORD not in "".join(shown) and KEY not in "".join(shown)


def test_what_no_node_has_is_refused_at_once(
    nodes: Nodes, home: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    config = configured(home, "cluster.address=auto", rollout="fast")
    with pytest.raises(
        ConfigError, match=r"no node has 1 fast, which cluster\.resources\.rollout wants.*has 2 CPU, 1 gen"
    ):
        staged(config, directory)


def test_a_role_whose_node_dies_is_placed_on_another(nodes: Nodes, home: Path, directory: Path, tmp_path: Path) -> None:
    """Both ranks are: they live and die together. The log of the one without a shared disk comes home."""
    first = nodes.add(rank=1)
    nodes.add(rank=1)
    config = configured(
        home, f"cluster.address={nodes.address}", "cluster.ship=false", "cluster.strategy=strict_spread", learner="rank"
    )
    stage = staged(config, directory, ranks=2, elsewhere=str(tmp_path / "disk"))
    try:
        before = {name: stage.said(name)["node"] for name in ("learner", "learner-1")}
        assert len(set(before.values())) == 2
        spare = nodes.add(rank=1)
        nodes.kill(first)
        after = {name: stage.said(name, times=2)["node"] for name in before}
        assert len(set(after.values())) == 2 and first.node_id not in after.values() and spare.node_id in after.values()
        lost = next(name for name, node in before.items() if node == first.node_id)
        assert f"{lost} died (its node 127.0.0.1 is gone); starting all its ranks again in 1 s" in stage.told
        assert f"learner runs on 127.0.0.1, where {directory} is not this run's directory" in "\n".join(stage.told)
        assert len([line for line in stage.told if "died" in line]) == 1
    finally:
        stage.supervisor.stop()
