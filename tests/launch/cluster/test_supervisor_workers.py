"""Workers that are added and let go while the others go on; Ray is a fake, as is the clock."""

import os

import pytest

from areal.broker.bulletin import DRAIN, LEAVE
from areal.broker.errors import ArealError, ConfigError, ProcessDied
from areal.launch.cluster.actor import Seat
from areal.launch.cluster.beside import NOTHING, Beside
from areal.launch.cluster.restarts import STEADY_S
from areal.launch.cluster.supervisor import HURRY_S, MAX_PER_CORE
from areal.launch.fleet.autoscale import AutoscaleConfig

from ..fake_ray import Cluster, FakeRay, spec

KILLED = ProcessDied("its process ended by signal SIGKILL without a word")
DRAIN_S, PLACE_TIMEOUT_S = 60.0, 180.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two ranks and a worker, placed."""
    return Cluster(monkeypatch).start()


def test_a_worker_that_is_added_is_looked_after_like_the_others(cluster: Cluster) -> None:
    cluster.supervisor.add(spec("rollout-1"))
    assert cluster.supervisor.workers() == ["rollout-0", "rollout-1"]
    cluster.ends("rollout-1", KILLED)
    cluster.tick()
    assert cluster.told == [f"rollout-1 died ({KILLED}); starting it again in 1 s"]
    cluster.tick(after_s=1.0)
    assert cluster.placements() == {"learner": 1, "learner-1": 1, "rollout-0": 1, "rollout-1": 2}
    assert cluster.supervisor.workers() == ["rollout-0", "rollout-1"]


def test_a_worker_that_leaves_is_told_so_until_it_has_left(cluster: Cluster) -> None:
    cluster.supervisor.add(spec("rollout-1"))
    cluster.supervisor.let_go("rollout-1")
    cluster.tick(after_s=1.0)
    assert cluster.supervisor.workers() == ["rollout-0"] and cluster.supervisor.leaving() == {"rollout-1": LEAVE}
    cluster.supervisor.let_go("rollout-1")  # again, which changes nothing
    cluster.ends("rollout-1", True)
    cluster.tick()
    assert cluster.supervisor.leaving() == {} and cluster.told == ["rollout-1 has left"]
    assert cluster.placements()["rollout-1"] == 1 and not cluster.life("rollout-1").killed


def test_a_worker_that_takes_too_long_is_hurried_and_then_killed(cluster: Cluster) -> None:
    cluster.supervisor.let_go("rollout-0")
    cluster.tick(after_s=DRAIN_S - 1)
    assert cluster.supervisor.leaving() == {"rollout-0": LEAVE}
    cluster.tick(after_s=2)
    assert cluster.supervisor.leaving() == {"rollout-0": DRAIN} and not cluster.life("rollout-0").killed
    cluster.tick(after_s=HURRY_S)
    assert cluster.life("rollout-0").killed and cluster.supervisor.leaving() == {}


def test_a_worker_that_dies_while_it_leaves_is_not_started_again(cluster: Cluster) -> None:
    cluster.supervisor.let_go("rollout-0")
    cluster.ends("rollout-0", KILLED)
    for _ in range(3):
        cluster.tick(after_s=10)
    assert cluster.placements()["rollout-0"] == 1 and cluster.told == ["rollout-0 has left"]


def test_a_worker_that_is_about_to_start_again_leaves_at_once(cluster: Cluster) -> None:
    cluster.ends("rollout-0", KILLED)
    cluster.tick()
    cluster.supervisor.let_go("rollout-0")
    cluster.tick(after_s=10)
    assert cluster.placements()["rollout-0"] == 1 and cluster.supervisor.leaving() == {}


def test_a_worker_that_ray_has_no_place_for_yet_leaves_at_once(cluster: Cluster) -> None:
    cluster.supervisor.add(spec("rollout-1"))
    cluster.life("rollout-1").seat.end = False
    cluster.supervisor.let_go("rollout-1")
    cluster.tick()
    assert cluster.life("rollout-1").killed and cluster.supervisor.leaving() == {}


def test_an_added_worker_without_a_place_is_given_up_and_the_run_goes_on(cluster: Cluster) -> None:
    cluster.supervisor.add(spec("rollout-1"))
    life = cluster.life("rollout-1")
    life.seat.end = life.group.room.end = False
    cluster.tick(after_s=PLACE_TIMEOUT_S + 1)
    assert cluster.life("rollout-1").killed and cluster.supervisor.workers() == ["rollout-0"]
    assert "rollout-1 is given up: Ray found no place for rollout-1 within 180 s" in cluster.supervisor.given_up
    assert cluster.told == [f"{cluster.supervisor.given_up}\n  the run goes on without it"]
    cluster.tick()
    assert len(cluster.told) == 1


@pytest.mark.parametrize("error", [KILLED, ConfigError("rewards.functions: there is no such file on that node")])
def test_an_added_worker_that_cannot_live_ends_nothing(cluster: Cluster, error: Exception) -> None:
    cluster.supervisor.add(spec("rollout-1"))
    for _ in range(4):
        if "rollout-1" in cluster.supervisor.workers():
            cluster.ends("rollout-1", error)
        cluster.tick()
        cluster.tick(after_s=60)
    assert cluster.supervisor.workers() == ["rollout-0"] and "rollout-1 is given up" in cluster.supervisor.given_up
    cluster.ends("rollout-0", ConfigError("of the first the run cannot do without"))
    with pytest.raises(ArealError, match="cannot do without"):
        cluster.tick()


def test_the_run_is_done_when_those_that_leave_have_left(cluster: Cluster) -> None:
    cluster.supervisor.let_go("rollout-0")
    for name in ("learner", "learner-1"):
        cluster.ends(name, True)
    cluster.tick()
    assert not cluster.supervisor.all_done()
    cluster.ends("rollout-0", True)
    cluster.tick()
    assert cluster.supervisor.all_done()


def test_a_worker_that_ended_though_nobody_told_it_to_is_missing(cluster: Cluster) -> None:
    cluster.ends("rollout-0", True)
    cluster.tick()
    assert cluster.supervisor.workers() == []


def test_there_is_room_for_what_the_cluster_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=1, workers=2, ray=FakeRay(gpus=3)).start()
    monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"CPU": 5.0, "GPU": 1.0}, raising=False)
    room = cluster.supervisor.room
    assert room(1, NOTHING) == ""
    assert room(2, NOTHING) == "they need 2 GPU (there is 1 left)"
    assert room(6, NOTHING) == "they need 6 CPU (there are 5 left), 6 GPU (there is 1 left)"
    assert room(1, Beside(5.0, 0.5, {"judge": 1})).count("left") == 3


def test_one_machine_takes_more_workers_than_it_has_cores_but_not_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, address=None).start()
    most = MAX_PER_CORE * (os.cpu_count() or 1)
    assert cluster.supervisor.room(most - 1, NOTHING) == ""
    assert f"cores for {most}" in cluster.supervisor.room(most, NOTHING)
    cluster.supervisor.add(spec("rollout-1"))
    assert [cluster.life(f"rollout-{index}").options["num_cpus"] for index in range(2)] == [0, 0]


def test_gpus_are_shared_out_for_as_many_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    autoscale = AutoscaleConfig(min=1, max=4)
    cluster = Cluster(monkeypatch, ranks=1, workers=1, ray=FakeRay(gpus=3), autoscale=autoscale).start()
    assert cluster.life("rollout-0").gpus == 0.5


def test_once_all_is_learned_no_worker_is_started_again_whatever_it_ends_on(cluster: Cluster) -> None:
    cluster.ends("learner", True)
    cluster.ends("learner-1", True)
    cluster.tick()
    for _ in range(5):
        cluster.ends("rollout-0", KILLED)
        cluster.tick(after_s=STEADY_S)
    assert cluster.placements()["rollout-0"] == 1
    assert cluster.told == [f"rollout-0 died at the end ({KILLED})"] and cluster.supervisor.all_done()


def test_once_all_is_learned_no_worker_is_waited_for_that_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=1, workers=2).start()
    cluster.life("rollout-1").seat.end = False
    cluster.ends("rollout-0", KILLED)
    cluster.tick()
    cluster.ends("learner", True)
    cluster.tick()  # rollout-0 was about to start again, rollout-1 has no place yet
    cluster.tick()
    assert cluster.supervisor.all_done() and cluster.life("rollout-1").killed and cluster.ray.groups == []


def test_a_worker_whose_node_is_lost_is_waited_for_while_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=1, workers=2, place_timeout_s=30).start()
    cluster.tick()
    cluster.ends("rollout-1", KILLED)
    cluster.tick()
    cluster.tick(after_s=2)
    waiting = cluster.life("rollout-1")
    waiting.seat.end = waiting.group.room.end = False
    for _ in range(5):
        cluster.tick(after_s=60)
    assert [text for text in cluster.told if "rollout-1 waits for a place" in text] == cluster.told[1:]
    waiting.seat.end = Seat("n0", "10.0.0.1", shares_directory=True)
    cluster.tick()
    assert cluster.placements()["rollout-1"] == 2


def test_the_only_worker_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=1, workers=1, place_timeout_s=30).start()
    cluster.tick()
    cluster.ends("rollout-0", KILLED)
    cluster.tick()
    cluster.tick(after_s=2)
    cluster.life("rollout-0").seat.end = False
    with pytest.raises(ArealError, match="place_timeout_s"):
        cluster.tick(after_s=60)


def test_a_cluster_that_grows_has_room_and_gpus_for_all_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=2, workers=4, ray=FakeRay(gpus=1, cpus=2.0), grows=True).start()
    assert {name: lives[0].gpus for name, lives in cluster.ray.lives.items()} == dict.fromkeys(cluster.ray.lives, 1)
    assert cluster.supervisor.room(100, Beside()) == ""
