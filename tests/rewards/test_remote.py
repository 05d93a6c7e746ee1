"""Reward processes in actors of a real Ray."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.launch.cluster.loopback import keep_ray_on_loopback
from areal.rewards import remote
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool

from .test_pool import FUNCTIONS, gone, score_all, totals, with_pool

pytestmark = pytest.mark.slow

WHERE = {"where": "ray", "start_timeout_s": 60.0}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two cores, and one thing that is called a judge."""
    keep_ray_on_loopback()
    ray = pytest.importorskip("ray")
    options: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "log_to_driver": False}
    ray.init(address="local", num_cpus=2, resources={"judge": 1}, object_store_memory=80 * 2**20, **options)
    yield
    ray.shutdown()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return str(path)


def test_scores_are_those_of_a_pool_beside_the_worker(file: str) -> None:
    texts = ["x" * n for n in range(50)]
    scores = with_pool(lambda pool: score_all(pool, *texts), f"{file}:length", f"{file}:pid", workers=2, **WHERE)
    assert [score.parts["length"] for score in scores] == list(range(50))
    pids = {int(score.parts["pid"]) for score in scores}
    assert len(pids) == 2 and os.getpid() not in pids
    assert all(gone(pid) for pid in pids)


def test_a_hang_is_killed_where_it_is_and_harms_no_other_call(file: str) -> None:
    found = with_pool(
        lambda pool: score_all(pool, "a", "hang", "abc", "crash", "raise", "abcd"),
        f"{file}:by_text",
        timeout_s=1.0,
        **WHERE,
    )
    assert totals(found) == [1.0, None, 3.0, None, None, 4.0]
    assert [str(found[place]).partition("lastly: ")[2].splitlines()[0] for place in (1, 3, 4)] == [
        "timed out after 1 s",
        "the process exited with code 3",
        "Traceback (most recent call last):",
    ]


def test_an_actor_that_is_killed_is_replaced(file: str) -> None:
    async def use(pool: RewardPool) -> list[float]:
        first = await pool.score("p", "c", {})
        psutil.Process(int(first.total)).parent().kill()  # type: ignore[union-attr]
        return [first.total, (await pool.score("p", "c", {})).total]

    before, after = with_pool(use, f"{file}:pid", retries=2, **WHERE)
    assert before != after and gone(int(before))


def test_what_a_function_lacks_is_told_as_the_pool_starts(file: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'sort'"):
        with_pool(lambda pool: pool.score("p", "c", {}), "srot", **WHERE)


def test_resources_are_what_ray_places_by(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"resources": {"cpus": 0, "custom": {"judge": 1}}}
    assert totals(with_pool(lambda pool: score_all(pool, "abc"), f"{file}:length", **WHERE, **one)) == [3.0]
    monkeypatch.setattr(remote, "GRACE_S", 0.5)
    began = time.monotonic()
    with pytest.raises(RewardError, match=r"no place for it, it wants 1 CPUs, 2 judge \(rewards.resources\)"):
        many = {"resources": {"custom": {"judge": 2}}}
        with_pool(lambda pool: pool.score("p", "c", {}), f"{file}:length", **{**WHERE, "start_timeout_s": 1.0}, **many)
    assert time.monotonic() - began < 30


PARENT = """
import asyncio, sys
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool

async def main():
    config = {"functions": [{"name": "sort"}], "workers": 3, "where": "ray", "resources": {"cpus": 0.5}}
    pool = RewardPool(RewardsConfig.model_validate(config))
    await pool.start()
    scores = await asyncio.gather(*(pool.score("p", f"#{n}", {"answer": "1"}) for n in range(9)))
    print(sum(score.total for score in scores))
    await pool.stop()

asyncio.run(main())
"""


def test_several_workers_join_the_cluster_of_their_process_together() -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address}
    command = [sys.executable, "-c", PARENT]
    found = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout == "1.0\n", found.stderr


def test_resources_without_ray_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set rewards\.where to ray"):
        RewardsConfig.model_validate({"functions": [{"name": "sort"}], "resources": {"gpus": 1}})
