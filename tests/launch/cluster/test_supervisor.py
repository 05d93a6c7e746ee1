"""Who is placed, and what becomes of roles that die; Ray is a fake, as is the clock."""

from pathlib import Path

import pytest

from areal.broker.errors import ArealError, ConfigError, DeadlineExceeded, ModelError, ProcessDied, RoleDied
from areal.launch.cluster.actor import Seat
from areal.launch.cluster.actors import BUSY_S, LOST_S
from areal.launch.cluster.beside import Beside
from areal.launch.cluster.company import TELL_S
from areal.launch.cluster.fit import SLOT
from areal.launch.cluster.restarts import STEADY_S

from ..fake_ray import ActorDied, ActorUnavailableError, Answer, Cluster, FakeRay

GONE = RoleDied("another rank of the learner is gone (Connection closed by peer)")
KILLED = ProcessDied("its process ended by signal SIGKILL without a word")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two ranks and a worker, placed."""
    return Cluster(monkeypatch).start()


def test_every_role_is_placed_once(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.tick(after_s=STEADY_S)
    assert cluster.placements() == {"learner": 1, "learner-1": 1, "rollout-0": 1}
    assert not cluster.supervisor.all_done() and cluster.told == []


def test_ranks_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=3, workers=2, ray=FakeRay(gpus=4)).start()
    assert {name: lives[0].gpus for name, lives in cluster.ray.lives.items()} == {
        "learner": 1,
        "learner-1": 1,
        "learner-2": 1,
        "rollout-0": 0.5,
        "rollout-1": 0.5,
    }


def test_with_too_few_gpus_nothing_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, ranks=8, workers=1, ray=FakeRay(gpus=8))
    with pytest.raises(ConfigError, match="the cluster has 8 GPUs, and this run wants 9"):
        cluster.start()
    assert cluster.ray.lives == {} and cluster.ray.joined
    cluster.supervisor.stop()
    assert not cluster.ray.joined


def test_what_roles_place_besides_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 processes of rewards: of a Ray that is started here they have the cores, of any they have their GPUs."""
    beside = Beside(40, 1.5, {"judge": 2})
    here = Cluster(monkeypatch, address=None, ray=FakeRay(gpus=8), beside=beside).start()
    assert here.ray.joined["num_cpus"] == 40 and here.ray.joined["resources"]["judge"] == 2
    judges = {"n0": {"judge": 2.0}}
    shared = Cluster(monkeypatch, ranks=1, workers=2, ray=FakeRay(gpus=4, custom=judges), beside=beside).start()
    assert {name: lives[0].gpus for name, lives in shared.ray.lives.items()} == {
        "learner": 1,
        "rollout-0": 0.5,
        "rollout-1": 0.5,
    }
    with pytest.raises(ConfigError, match=r"has 2 GPUs, and the rewards alone want 1.5 \(rewards.resources.gpus"):
        Cluster(monkeypatch, ray=FakeRay(gpus=2), beside=beside).start()


def test_ranks_do_not_meet_on_a_loopback_of_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("10.0.0.2", "127.0.1.1")
    cluster = Cluster(monkeypatch, ray=FakeRay(hosts=hosts))
    with pytest.raises(ConfigError, match=r"nodes 10\.0\.0\.2, 127\.0\.1\.1, .*127\.0\.1\.1 is their own loopback"):
        cluster.start()
    assert cluster.ray.lives == {}
    Cluster(monkeypatch, ranks=1, ray=FakeRay(hosts=hosts)).start()
    Cluster(monkeypatch, ray=FakeRay(hosts=("127.0.0.1", "127.0.0.1"))).start()
    Cluster(monkeypatch, ray=FakeRay(hosts=("10.0.0.1", "10.0.0.2"))).start()


def test_a_role_that_finds_no_place_is_told_of_before_the_run_gives_up(cluster: Cluster) -> None:
    cluster.life("rollout-0").seat.end = cluster.life("rollout-0").group.room.end = False
    cluster.tick(after_s=BUSY_S + 1)
    cluster.tick(after_s=1)
    assert cluster.told == ["rollout-0 waits for a place: it wants 1 CPU, and the cluster has 64 CPU left"]
    with pytest.raises(
        ArealError, match=r"no place for rollout-0 within 180 s \(cluster\.place_timeout_s\); it wants 1 CPU"
    ):
        cluster.tick(after_s=180)


def test_a_role_whose_actor_does_not_start_is_not_said_to_lack_room(cluster: Cluster) -> None:
    cluster.life("rollout-0").seat.end = False
    cluster.tick(after_s=BUSY_S + 1)
    assert cluster.told == []
    with pytest.raises(ArealError, match=r"Ray started no actor for rollout-0 within 180 s"):
        cluster.tick(after_s=180)


def test_the_ranks_have_one_group_and_each_worker_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = {"learner": {"cpus": 4, "custom": {"big": 1}}, "rollout": {"cpus": 2}}
    ray = FakeRay(hosts=("10.0.0.1", "10.0.0.2"), custom={"n1": {"big": 2}})
    cluster = Cluster(monkeypatch, ray=ray, workers=2, resources=resources, strategy="strict_pack").start()
    assert [(group.bundles, group.strategy) for group in ray.groups] == [
        ([{"CPU": 4, "big": 1}, {"CPU": 4, "big": 1}], "STRICT_PACK"),
        ([{"CPU": 2}], "PACK"),
        ([{"CPU": 2}], "PACK"),
    ]
    second = cluster.life("learner-1")
    assert (second.options["num_cpus"], second.options["resources"]) == (4, {"big": 1})
    assert second.options["scheduling_strategy"] == (ray.groups[0], 1)


def test_a_ray_of_the_runs_own_has_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cores are but a number, and there is nothing to be told apart by a resource of one's own."""
    resources = {"rollout": {"cpus": 1000, "custom": {"far": 1}}}
    cluster = Cluster(monkeypatch, address=None, workers=9, resources=resources).start()
    assert all(group.bundles[0] == {SLOT: 1} for group in cluster.ray.groups)
    assert cluster.placements()["rollout-8"] == 1


TWO = ("10.0.0.1", "10.0.0.2")
N0, N1 = (Seat(f"n{index}", host, shares_directory=True) for index, host in enumerate(TWO))


@pytest.mark.parametrize(("affinity", "label"), [("apart", "!in(n1)"), ("together", "in(n1)")])
def test_workers_are_placed_once_the_learner_is(monkeypatch: pytest.MonkeyPatch, affinity: str, label: str) -> None:
    ray = FakeRay(hosts=TWO, cpus=2)
    cluster = Cluster(monkeypatch, ranks=1, workers=1, ray=ray, affinity=affinity).start()
    assert set(cluster.placements()) == {"learner"}
    cluster.life("learner").seat.end = False
    cluster.tick()
    assert set(cluster.placements()) == {"learner"}
    cluster.life("learner").seat.end = N1
    cluster.tick()
    assert cluster.life("rollout-0").labels == {"ray.io/node-id": label}


def test_the_learner_gets_nodes_that_leave_room_for_workers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the larger node it would have left them the one that is too small for two."""
    ray = FakeRay(hosts=TWO, cpus=1, custom={"n1": {"CPU": 2}})
    cluster = Cluster(monkeypatch, ranks=1, workers=2, ray=ray, affinity="apart").start()
    assert cluster.life("learner").labels == {"ray.io/node-id": "in(n0)"}


def test_the_learner_comes_back_apart_from_workers_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(hosts=(*TWO, "10.0.0.3"))
    cluster = Cluster(monkeypatch, ranks=1, workers=1, ray=ray, affinity="apart").start()
    cluster.life("learner").seat.end = N0
    cluster.tick()
    cluster.life("rollout-0").seat.end = N1
    cluster.tick()
    ray.dead.add("n0")
    cluster.ends("learner", ActorDied("no word"))
    cluster.tick()
    cluster.tick(after_s=1)
    assert cluster.told == ["learner died (its node 10.0.0.1 is gone); starting it again in 1 s"]
    assert cluster.life("learner").labels == {"ray.io/node-id": "in(n2)"}


def test_a_worker_does_not_follow_a_learner_whose_node_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(hosts=TWO)
    cluster = Cluster(monkeypatch, ranks=1, workers=1, ray=ray, affinity="together").start()
    cluster.life("learner").seat.end = N0
    cluster.tick()
    ray.dead.add("n0")
    cluster.ends("rollout-0", ActorDied("no word"))
    cluster.tick()
    cluster.tick(after_s=1)
    assert cluster.placements() == {"learner": 1, "rollout-0": 1}
    cluster.ends("learner", ActorDied("no word"))
    cluster.tick()
    cluster.tick(after_s=1)
    cluster.life("learner").seat.end = N1
    cluster.tick()
    assert cluster.life("rollout-0").labels == {"ray.io/node-id": "in(n1)"}


def test_a_node_that_is_not_reached_is_waited_for_until_ray_knows(cluster: Cluster) -> None:
    """The other rank notices at once that it is gone, and blames it."""
    cluster.tick()
    cluster.ends("learner-1", ActorUnavailableError("not reached"))
    cluster.life("learner-1").seat.end = ActorUnavailableError("not reached")
    cluster.ends("learner", GONE)
    for _ in range(3):
        cluster.tick(after_s=0.9 * TELL_S)
    assert cluster.told == [] and not cluster.life("learner-1").killed
    cluster.life("learner-1").seat.end = ActorDied("The actor died because its node has died. Node Id: 5d")
    cluster.tick()
    assert cluster.told == ["learner-1 died (its node 10.0.0.1 is gone); starting all its ranks again in 1 s"]


@pytest.mark.parametrize(
    ("end", "after_s", "says"),
    [
        (Seat("n0", "10.0.0.1", shares_directory=True), 1, "Ray lost touch with it for a while"),
        (ActorUnavailableError("not reached"), LOST_S + 1, "ActorUnavailableError: not reached"),
    ],
)
def test_an_actor_whose_call_was_lost_is_placed_again(
    cluster: Cluster, end: Seat | Exception, after_s: float, says: str
) -> None:
    cluster.ends("rollout-0", ActorUnavailableError("not reached"))
    cluster.life("rollout-0").seat.end = ActorUnavailableError("not reached")
    cluster.tick()
    assert cluster.told == []
    cluster.life("rollout-0").seat.end = end
    cluster.tick(after_s=after_s)
    assert cluster.told == [f"rollout-0 died ({says}); starting it again in 1 s"]
    cluster.tick(after_s=1)
    assert cluster.placements()["rollout-0"] == 2


def test_places_are_given_back(cluster: Cluster) -> None:
    assert len(cluster.ray.groups) == 2
    cluster.ends("rollout-0", True)
    cluster.tick()
    assert len(cluster.ray.groups) == 1
    cluster.ends("learner", KILLED)
    cluster.tick()
    assert cluster.ray.groups == []
    cluster.tick(after_s=1)
    assert len(cluster.ray.groups) == 1
    cluster.supervisor.stop()
    assert cluster.ray.groups == []


def test_the_log_of_a_role_that_shares_no_disk_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = Cluster(monkeypatch, ranks=1, directory=str(tmp_path)).start()
    worker, log = cluster.life("rollout-0"), tmp_path / "logs" / "rollout-0.log"
    worker.seat.end = Seat("n0", "10.0.0.1", shares_directory=False)
    cluster.tick(after_s=2)
    assert cluster.told == [
        f"rollout-0 runs on 10.0.0.1, where {tmp_path} is not this run's directory: its log is fetched from there"
    ]
    worker.log_since.end = b"begins\n"
    cluster.tick(after_s=2)
    cluster.tick(after_s=2)
    assert log.read_bytes().startswith(b"begins\n")
    parts = iter([b"the error\n", b""])
    monkeypatch.setattr(worker.log_since, "remote", lambda offset: Answer(next(parts)))
    cluster.ends("rollout-0", KILLED)
    cluster.tick()
    cluster.tick(after_s=2)
    again = cluster.life("rollout-0")
    again.seat.end = Seat("n0", "10.0.0.1", shares_directory=False)
    cluster.tick(after_s=2)
    parts = iter([b"its last words\n", b""])
    monkeypatch.setattr(again.log_since, "remote", lambda offset: Answer(next(parts)))
    cluster.supervisor.stop()
    assert b"the error\n" in log.read_bytes() and log.read_bytes().endswith(b"its last words\n")
    assert not (tmp_path / "logs" / "learner.log").exists()


def test_a_log_that_cannot_be_written_is_told_once_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("in the way")
    cluster = Cluster(monkeypatch, ranks=1, directory=str(tmp_path)).start()
    worker = cluster.life("rollout-0")
    worker.seat.end = Seat("n0", "10.0.0.1", shares_directory=False)
    worker.log_since.end = b"more\n"
    for _ in range(5):
        cluster.tick(after_s=2)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "lacks what its role" in caplog.text


def test_a_worker_is_started_again_by_itself(cluster: Cluster) -> None:
    cluster.ends("rollout-0", KILLED)
    cluster.tick()
    assert cluster.told == [f"rollout-0 died ({KILLED}); starting it again in 1 s"]
    cluster.tick(after_s=0.5)
    assert cluster.placements()["rollout-0"] == 1
    cluster.tick(after_s=0.5)
    assert cluster.placements() == {"learner": 1, "learner-1": 1, "rollout-0": 2}


@pytest.mark.parametrize(("dies", "other"), [("learner", "learner-1"), ("learner-1", "learner")])
def test_when_a_rank_dies_all_are_ended_and_placed_again(cluster: Cluster, dies: str, other: str) -> None:
    """The other would wait for it, in a pass or for groups, for minutes or until the next step."""
    survivor = cluster.life(other)
    cluster.ends(dies, KILLED)
    cluster.tick()
    assert survivor.killed
    assert cluster.told == [f"{dies} died ({KILLED}); starting all its ranks again in 1 s"]
    survivor.run.end = GONE  # of what was killed
    cluster.tick(after_s=1.0)
    cluster.tick()
    assert cluster.placements() == {"learner": 2, "learner-1": 2, "rollout-0": 1}
    assert len(cluster.told) == 1 and not cluster.life("learner").killed


def test_the_cause_is_of_the_rank_that_died_first(cluster: Cluster) -> None:
    """The leader may notice that a follower is gone before Ray tells how it ended."""
    cluster.ends("learner", GONE)
    cluster.tick()
    cluster.tick(after_s=0.9 * TELL_S)
    assert cluster.told == [] and not cluster.life("learner-1").killed
    cluster.ends("learner-1", ProcessDied("OutOfMemoryError: tried to allocate 2 GiB"))
    cluster.tick()
    assert cluster.told == [
        "learner-1 died (OutOfMemoryError: tried to allocate 2 GiB); starting all its ranks again in 1 s"
    ]


def test_ranks_that_only_blame_each_other_are_not_waited_for(cluster: Cluster) -> None:
    cluster.ends("learner", GONE)
    cluster.ends("learner-1", GONE)
    cluster.tick()
    assert cluster.told == [f"learner died ({GONE}); starting all its ranks again in 1 s"]


def test_a_rank_that_says_nothing_is_waited_for_so_long(cluster: Cluster) -> None:
    cluster.ends("learner-1", GONE)
    cluster.tick()
    cluster.tick(after_s=TELL_S + 0.1)
    assert cluster.told == [f"learner-1 died ({GONE}); starting all its ranks again in 1 s"]
    assert cluster.life("learner").killed


def test_ranks_count_their_deaths_together_and_the_last_cause_is_told(cluster: Cluster) -> None:
    for name, delay_s in (("learner", 1), ("learner-1", 2), ("learner", 4)):
        cluster.ends(name, KILLED)
        cluster.tick()
        cluster.tick(after_s=delay_s)
    cluster.ends("learner", GONE)
    cluster.ends("learner-1", DeadlineExceeded("it took too long"))
    says = (
        r"ranks of the learner died 4 times in a row: the last time learner-1, it took too long\n.*logs/learner-1.log"
    )
    with pytest.raises(ArealError, match=says):
        cluster.tick()


def test_a_rank_that_ended_well_is_placed_again_with_a_leader_that_failed(cluster: Cluster) -> None:
    cluster.ends("learner-1", True)
    cluster.tick()
    cluster.ends("learner", KILLED)
    cluster.tick()
    cluster.tick(after_s=1.0)
    assert cluster.placements() == {"learner": 2, "learner-1": 2, "rollout-0": 1}


def test_what_a_rank_says_after_the_leader_is_done_ends_nothing(cluster: Cluster) -> None:
    """It may have seen the leader go before it had read the last order."""
    cluster.ends("learner-1", GONE)
    cluster.tick()
    cluster.ends("learner", True)
    cluster.ends("rollout-0", True)
    for _ in range(3):
        cluster.tick(after_s=TELL_S)
    assert cluster.told == [] and cluster.supervisor.is_done("learner") and cluster.supervisor.all_done()
    assert cluster.placements() == {"learner": 1, "learner-1": 1, "rollout-0": 1}


def test_the_run_is_not_done_while_a_rank_is_ending(cluster: Cluster) -> None:
    cluster.ends("learner", True)
    cluster.ends("rollout-0", True)
    cluster.tick()
    assert cluster.supervisor.is_done("learner") and not cluster.supervisor.all_done()
    cluster.ends("learner-1", True)
    cluster.tick()
    assert cluster.supervisor.all_done()


def test_what_no_other_try_can_mend_ends_the_run(cluster: Cluster) -> None:
    cluster.ends("learner", GONE)
    cluster.ends("learner-1", ModelError("it has no layers"))
    with pytest.raises(ModelError, match="it has no layers"):
        cluster.tick()


def die(cluster: Cluster, name: str, *, after_s: float) -> None:
    """A role dies so long after it was placed, and is placed again."""
    cluster.tick(after_s=after_s)
    cluster.ends(name, DeadlineExceeded("nobody came"))
    cluster.tick()
    cluster.tick(after_s=60)


@pytest.mark.parametrize(("dies", "who"), [("learner", "ranks of the learner"), ("rollout-0", "rollout-0")])
def test_age_alone_does_not_clear_the_count(cluster: Cluster, dies: str, who: str) -> None:
    """Ranks that wait for each other in vain do so for longer than STEADY_S."""
    cluster.hear(dies, worked=False)
    for _ in range(3):
        die(cluster, dies, after_s=2.5 * STEADY_S)
    with pytest.raises(ArealError, match=f"^{who} died 4 times in a row"):
        die(cluster, dies, after_s=2.5 * STEADY_S)


@pytest.mark.parametrize(("dies", "works"), [("learner-1", "learner"), ("rollout-0", "rollout-0")])
def test_work_that_was_done_clears_the_count(cluster: Cluster, dies: str, works: str) -> None:
    cluster.hear(works)
    for _ in range(6):
        die(cluster, dies, after_s=1.1 * STEADY_S)
    assert all(text.endswith("again in 1 s") for text in cluster.told)


@pytest.mark.parametrize(
    ("ago_s", "after_s"), [(0.1, 0.5 * STEADY_S), (2.0 * STEADY_S, 1.1 * STEADY_S)], ids=["soon", "before"]
)
def test_work_clears_no_count_of_roles_that_die_soon_or_did_it_in_an_earlier_life(
    cluster: Cluster, ago_s: float, after_s: float
) -> None:
    cluster.hear("learner", ago_s=ago_s)
    for _ in range(3):
        die(cluster, "learner", after_s=after_s)
    with pytest.raises(ArealError, match="4 times in a row"):
        die(cluster, "learner", after_s=after_s)


def test_a_ray_that_is_gone_ends_the_run_with_its_address(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("Client is shutting down")

    monkeypatch.setattr(cluster.ray, "wait", fail)
    monkeypatch.setattr(cluster.ray, "kill", fail)
    with pytest.raises(
        ArealError, match=r"connection to Ray \(cluster\.address auto\) is lost: Client is shutting down"
    ):
        cluster.tick()
    cluster.supervisor.stop()
    assert cluster.ray.joined == {}


def test_stop_kills_what_runs(cluster: Cluster) -> None:
    cluster.ends("rollout-0", True)
    cluster.tick()
    cluster.supervisor.stop()
    assert {name: lives[-1].killed for name, lives in cluster.ray.lives.items()} == {
        "learner": True,
        "learner-1": True,
        "rollout-0": False,
    }
