"""Which roles a run has, and what the ranks of its learner are told."""

from pathlib import Path
from typing import Any

import pytest

from areal.broker.rollcall import Activity
from areal.launch.config import RunConfig, load_run_config
from areal.launch.driver.progress import Progress
from areal.launch.driver.run import Driver
from areal.launch.records.rundir import RunDirectory
from areal.launch.roles import RoleSpec, run_learner

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
REDIS = "redis://[::1]:6379/0"


def configured(tmp_path: Path, *overrides: str) -> RunConfig:
    return load_run_config(QUICKSTART, [f"directory={tmp_path}", *overrides])


@pytest.mark.parametrize(
    ("ranks", "workers", "companies"),
    [
        (1, 1, [[("learner", 0)], [("rollout-0", 0)]]),
        (
            3,
            2,
            [[("learner", 0), ("learner-1", 1), ("learner-2", 2)], [("rollout-0", 0)], [("rollout-1", 1)]],
        ),
    ],
)
def test_ranks_are_a_company_and_workers_are_alone(
    tmp_path: Path, ranks: int, workers: int, companies: list[list[tuple[str, int]]]
) -> None:
    config = configured(tmp_path, f"learner.ranks={ranks}", f"rollout.workers={workers}")
    with RunDirectory(config.path, config="") as rundir:
        made = Driver(config, "model", rundir, Progress("run"))._companies(REDIS)
        assert [[(spec.name, spec.index) for spec in company] for company in made] == companies
        assert {spec.role for spec in made[0]} == {"learner"}
        assert {spec.role for company in made[1:] for spec in company} == {"rollout"}
        assert {spec.run_key for company in made for spec in company} == {rundir.key}


class Recorded:
    """Stands for the learner or a follower; what each was made with is in `made`."""

    made: list[dict[str, Any]]

    def __init__(self, settings: object, client: object, *arguments: object, **options: object) -> None:
        self.made.append({"arguments": arguments} | options)

    def run(self) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    for name in ("OMP_NUM_THREADS", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr("areal.learner.learner.Learner", Recorded)
    monkeypatch.setattr("areal.learner.follower.Follower", Recorded)
    monkeypatch.setattr(Recorded, "made", [], raising=False)
    return Recorded.made


def be(config: RunConfig, *, index: int = 0, host: str = "10.1.2.3") -> Activity:
    activity = Activity()
    spec = RoleSpec("learner", {}, "model", REDIS, str(config.path), "key", index=index, host=host)
    client: Any = None
    run_learner(spec, config, client, activity)
    return activity


def test_ranks_meet_at_the_address_of_the_leaders_node(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    """As Ray knows it, whatever that of Redis is."""
    config = configured(tmp_path, "learner.ranks=2", f"broker.url={REDIS}", "cluster.address=auto")
    leads = be(config)
    follows = be(config, index=1, host="10.1.2.4")
    assert made == [{"arguments": (leads,), "host": "10.1.2.3"}, {"arguments": (1, follows), "host": "10.1.2.4"}]


def test_ranks_on_one_machine_meet_at_the_loopback(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    leads = be(configured(tmp_path, "learner.ranks=2"))
    assert made == [{"arguments": (leads,), "host": "127.0.0.1"}]
