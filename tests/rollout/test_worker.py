"""The worker's logic, over a real broker; the engine answers without a model."""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from areal.broker.bulletin import DRAIN, LEAVE, RUN, Bulletin
from areal.broker.chunks import RedisChunks
from areal.broker.client import Client, connect
from areal.broker.codec import encode_prompt
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import BrokerError, BrokerUnavailable, DeadlineExceeded, EngineDied, EngineError
from areal.broker.fleet import Fleet
from areal.broker.keys import LaneKeys
from areal.broker.lane import Lane
from areal.broker.server import EmbeddedRedis
from areal.broker.tickets import Tickets
from areal.broker.trajectory import Group, Prompt, TokenTrajectory
from areal.broker.transport import SharedDirectory
from areal.broker.weights import WeightStore
from areal.rollout.config import RolloutConfig
from areal.rollout.engine import Completion, Engine, Request
from areal.rollout.follower import WeightFollower
from areal.rollout.worker import Parts, RolloutWorker, Served
from areal.rollout.workflow import trajectory_of

BROKER = BrokerConfig(lease_s=1.0, max_attempts=3)
ROLLOUT = RolloutConfig(max_concurrent=8, weights_timeout_s=5.0)


class EchoEngine:
    """Answers a request with its own prompt under the weights it has, after `delay_s`; dies when told to."""

    def __init__(self) -> None:
        self.version = -1
        self.starts = 0
        self.stops = 0
        self.delay_s = 0.0
        self.start_s = 0.0
        self.alive = False
        self.requests = 0
        self._death = asyncio.Event()

    async def start(self) -> None:
        await asyncio.sleep(self.start_s)
        self.starts += 1
        self.alive = True
        self.version = -1
        self._death = asyncio.Event()

    def die(self) -> None:
        self.alive = False
        self._death.set()

    async def generate(self, request: Request) -> Completion:
        self.requests += 1
        if not self.alive:
            raise EngineDied("the engine is dead")
        if self.version < 0:
            raise EngineError("no weights")
        try:
            await asyncio.wait_for(self._death.wait(), self.delay_s or 0.001)
        except TimeoutError:
            pass
        else:
            raise EngineDied("the engine died under a request")
        tokens = np.array(request.prompt_tokens, np.int32)
        versions = np.full(len(tokens), self.version, np.int32)
        return Completion(tokens, np.full(len(tokens), -0.5, np.float32), versions, "text", "stop")

    async def update_weights(self, version: int, path: Path) -> float:
        if not self.alive:
            raise EngineDied("the engine is dead")
        assert (path / "model.safetensors").read_text() == str(version)
        self.version = version
        return 0.001

    async def stop(self) -> None:
        self.stops += 1
        self.alive = False


class Echo:
    """A workflow of one request for each sequence; prompts in `failing` raise, as often as is said there."""

    def __init__(self) -> None:
        self.failing: dict[int, int] = {}

    async def run(self, prompt: Prompt, engine: Engine) -> list[TokenTrajectory]:
        if self.failing.get(prompt.id, 0) > 0:
            self.failing[prompt.id] -= 1
            raise RuntimeError(f"prompt {prompt.id} is not to the workflow's taste")
        request = Request((1, 2), 2, 1.0)
        completions = await asyncio.gather(*(engine.generate(request) for _ in range(prompt.group_size)))
        return [trajectory_of((1, 2), completion, 1.0, {"echo": 1.0}) for completion in completions]


def write(folder: Path, text: str) -> None:
    (folder / "model.safetensors").write_text(text)


class Stage:
    """A broker with two lanes and a learner's hand on it."""

    def __init__(self, client: Client, run: str, folder: Path) -> None:
        self.client, self.run = client, run
        self.train, self.eval = (Lane(client, run, name) for name in ("train", "eval"))
        self.bulletin = Bulletin(client, run)
        self.epoch = self.bulletin.lead()
        self.folder = folder
        self.store = WeightStore(client, run, SharedDirectory(folder))
        self.engine, self.workflow = EchoEngine(), Echo()
        self.counters: dict[str, float] = {}

    def publish(self, version: int) -> None:
        self.store.publish(version, lambda to: write(to, str(version)), epoch=self.epoch)

    def issue(self, lane: Lane, count: int, *, min_version: int = 0) -> None:
        first = lane.depth().issued
        prompts = [Prompt(first + i, min_version, 2, {"prompt": "x"}) for i in range(count)]
        assert lane.issue(prompts, after=first, epoch=self.epoch) == first + count

    def worker(self, name: str = "rollout-0", engine: EchoEngine | None = None, **rollout: Any) -> RolloutWorker:
        engine = engine or self.engine
        settings = ROLLOUT.model_copy(update=rollout)
        follower = WeightFollower(self.store, engine, timeout_s=settings.weights_timeout_s)
        lanes = (
            Served(Tickets(self.client, self.run, "eval", BROKER), 2),
            Served(Tickets(self.client, self.run, "train", BROKER), 2),
        )
        parts = Parts(engine, self.workflow, follower, lanes, self.bulletin, counters=self.counters)
        return RolloutWorker(name, parts, settings, BROKER)

    def groups(self, lane: Lane) -> list[Group]:
        return [d.group for d in lane.take("0", count=100, timeout_s=0.01)[0]]

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.bulletin.read("0", timeout_s=0.01)[0] if record["kind"] == kind]


@pytest.fixture
def stage(client: Client, run: str, tmp_path: Path) -> Stage:
    return Stage(client, run, tmp_path)


async def until(holds: Callable[[], bool], *, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


def play(stage: Stage, scene: Callable[[], Awaitable[None]], worker: RolloutWorker | None = None) -> None:
    """Run a worker beside the scene, then drain it."""

    async def both() -> None:
        async with asyncio.timeout(30):
            working = asyncio.create_task((worker or stage.worker()).run())
            acting = asyncio.ensure_future(scene())
            await asyncio.wait([working, acting], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                acting.cancel()
            else:
                await acting
                stage.bulletin.keep_order(DRAIN)
            await working

    asyncio.run(both())


def oldest_version(group: Group) -> int:
    return min(int(t.versions[t.action_mask].min()) for t in group.trajectories)


def test_groups_of_both_lanes_are_completed(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 6)
    stage.issue(stage.eval, 3)

    async def scene() -> None:
        await until(lambda: stage.train.depth().groups == 6 and stage.eval.depth().groups == 3)
        await asyncio.sleep(1.2)

    play(stage, scene)
    groups = stage.groups(stage.train)
    assert sorted(group.prompt_id for group in groups) == list(range(6))
    assert all(group.worker == "rollout-0" and group.finished_at >= group.started_at > 0 for group in groups)
    assert all(len(group.trajectories) == 2 and oldest_version(group) == 0 for group in groups)
    record = stage.records("worker")[-1]
    assert (record["groups_completed"], record["tokens_generated"], record["in_flight"]) == (9, 36, 0)
    assert (record["version"], record["weight_updates"], record["retries"]) == (0, 1, 0)
    assert 0 < record["busy_s"] <= record["alive_s"]
    assert (stage.engine.starts, stage.engine.stops) == (1, 1)


def test_what_rewards_count_is_reported_with_the_rest(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 1)

    async def scene() -> None:
        await until(lambda: any("reward_counters" in record for record in stage.records("worker")))
        stage.counters |= {"judge_requests": 7.0}

    play(stage, scene)
    records = stage.records("worker")
    assert records[0]["reward_counters"] == {} and records[-1]["reward_counters"] == {"judge_requests": 7.0}


def test_a_prompt_waits_for_its_version(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 1, min_version=2)
    stage.issue(stage.train, 1, min_version=0)

    async def scene() -> None:
        await until(lambda: stage.train.depth().groups == 1)
        await asyncio.sleep(0.2)
        assert stage.train.depth().groups == 1
        await asyncio.to_thread(stage.publish, 1)
        await asyncio.to_thread(stage.publish, 2)
        await until(lambda: stage.train.depth().groups == 2)

    play(stage, scene)
    assert {group.prompt_id: oldest_version(group) for group in stage.groups(stage.train)} == {1: 0, 0: 2}
    assert sum(len(record["update_pause_ms"]) for record in stage.records("worker")) >= 2


def test_damaged_weights_are_passed_over(stage: Stage) -> None:
    stage.publish(0)

    async def scene() -> None:
        await until(lambda: stage.engine.version == 0)
        await asyncio.to_thread(stage.publish, 1)
        await until(lambda: stage.engine.version == 1)
        folder = stage.folder / "00000002-9"
        folder.mkdir()
        write(folder, "2")
        stage.client.xadd(stage.store._stream, {"version": 2, "name": folder.name, "digest": 1})
        await asyncio.sleep(0.3)
        assert stage.engine.version == 1
        await asyncio.to_thread(stage.publish, 3)
        await until(lambda: stage.engine.version == 3)

    play(stage, scene)


def test_weights_that_a_learner_does_not_hand_out_are_passed_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine goes on with what it has; so it is the same engine that takes the next ones."""
    stage.publish(0)

    class Refused(EchoEngine):
        async def update_weights(self, version: int, path: Path) -> float:
            if version == 1:
                raise BrokerError("the learner no longer holds them")
            return await super().update_weights(version, path)

    stage.engine = Refused()

    async def scene() -> None:
        await until(lambda: stage.engine.version == 0)
        await asyncio.to_thread(stage.publish, 1)
        await until(lambda: any("passing over version 1: the learner no" in message for message in caplog.messages))
        stage.issue(stage.train, 1)
        await until(lambda: stage.train.depth().groups == 1)
        await asyncio.to_thread(stage.publish, 2)
        await until(lambda: stage.engine.version == 2)

    play(stage, scene)
    assert stage.engine.starts == 1
    assert oldest_version(stage.groups(stage.train)[0]) == 0


def test_a_failing_workflow_is_tried_again_then_buried(stage: Stage) -> None:
    stage.publish(0)
    stage.workflow.failing = {0: 2, 1: 99}
    stage.issue(stage.train, 3)

    async def scene() -> None:
        await until(lambda: stage.train.depth().groups == 2 and stage.train.depth().dead == 1)

    play(stage, scene)
    (letter,) = DeadLetters(stage.client, stage.run, "train").list()
    assert (letter.position, letter.attempts, letter.worker) == (1, 3, "rollout-0")
    assert "prompt 1 is not to the workflow's taste" in letter.cause and "Traceback" in letter.cause
    levels = [record["level"] for record in stage.records("event")]
    assert (levels.count("warning"), levels.count("error")) == (4, 1)
    assert stage.records("worker")[-1]["retries"] == 5


def test_a_dead_engine_is_started_again_once(stage: Stage) -> None:
    stage.publish(0)
    stage.engine.delay_s = 0.3
    stage.issue(stage.train, 4)

    async def scene() -> None:
        await until(lambda: stage.engine.requests == 8)
        stage.engine.start_s = 2.5  # long enough to lease, and fail, each prompt too often
        stage.engine.die()
        await until(lambda: stage.train.depth().groups == 4)

    play(stage, scene)
    assert stage.engine.starts == 2
    assert stage.train.depth().dead == 0
    assert stage.engine.requests == 16
    assert stage.engine.version == 0


def test_an_engine_that_dies_in_an_update_is_started_again(stage: Stage) -> None:
    stage.publish(0)

    async def scene() -> None:
        await until(lambda: stage.engine.version == 0)
        stage.engine.die()
        await asyncio.to_thread(stage.publish, 1)
        await asyncio.to_thread(stage.issue, stage.train, 1, min_version=1)
        await until(lambda: stage.train.depth().groups == 1)

    play(stage, scene)
    assert (stage.engine.starts, stage.engine.version) == (2, 1)


def test_an_engine_that_does_not_start_again_ends_the_worker(stage: Stage) -> None:
    class Broken(EchoEngine):
        async def start(self) -> None:
            if self.starts:
                raise EngineError("no memory")
            await super().start()

    engine = Broken()
    engine.delay_s = 5.0
    stage.publish(0)
    stage.issue(stage.train, 1)

    async def scene() -> None:
        await until(lambda: engine.requests == 2)
        engine.die()
        await asyncio.sleep(20)

    with pytest.raises(EngineError, match="no memory"):
        play(stage, scene, stage.worker(engine=engine))
    assert engine.stops >= 1


def test_draining_hands_prompts_back_uncharged(stage: Stage) -> None:
    stage.publish(0)
    stage.engine.delay_s = 20.0
    stage.issue(stage.train, 3)
    play(stage, lambda: until(lambda: stage.engine.requests == 6))
    leases = Tickets(stage.client, stage.run, "train", BROKER).lease("another", count=3, timeout_s=1)
    assert sorted((lease.prompt.id, lease.attempt) for lease in leases) == [(0, 1), (1, 1), (2, 1)]
    assert stage.train.depth().prompts == 3


def test_a_lost_lease_cancels_its_answers(stage: Stage) -> None:
    stage.publish(0)
    stage.engine.delay_s = 20.0
    stage.issue(stage.train, 1)
    cancelled = asyncio.Event()

    class Noticing(Echo):
        async def run(self, prompt: Prompt, engine: Engine) -> list[TokenTrajectory]:
            try:
                return await super().run(prompt, engine)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    stage.workflow = Noticing()

    async def scene() -> None:
        await until(lambda: stage.engine.requests == 2)
        keys = LaneKeys(stage.run, "train").prompts
        entry = stage.client.xpending_range(keys, "rollout", "-", "+", 1)[0]["message_id"]
        stage.client.xclaim(keys, "rollout", "another", 0, [entry])
        async with asyncio.timeout(5):
            await cancelled.wait()

    play(stage, scene)
    assert stage.train.depth().prompts == 1


def test_a_worker_never_has_more_under_way_than_allowed(stage: Stage) -> None:
    stage.publish(0)
    stage.engine.delay_s = 20.0
    stage.issue(stage.train, 20)

    async def scene() -> None:
        await until(lambda: stage.engine.requests == 8)
        await asyncio.sleep(0.5)

    play(stage, scene)
    assert stage.engine.requests == 8


def test_a_broker_that_is_gone_ends_the_worker(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    try:
        client = connect(server.start(), timeout_s=0.5)
        stage = Stage(client, "run", tmp_path / "weights")
        stage.publish(0)

        async def scene() -> None:
            await until(lambda: stage.engine.version == 0)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(20)

        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="did not answer"):
            play(stage, scene)
        assert time.monotonic() - began < 10
        assert stage.engine.stops == 1
        client.close()
    finally:
        server.stop()


def test_a_wait_for_weights_has_a_deadline(stage: Stage) -> None:
    follower = WeightFollower(stage.store, stage.engine, timeout_s=0.2)

    async def scene() -> None:
        with pytest.raises(DeadlineExceeded, match=r"the learner published no weights within 0\.2 s"):
            await follower.reload()
        with pytest.raises(DeadlineExceeded, match=r"weights of version 3 did not arrive from the learner .* is on -1"):
            await follower.at_least(3)

    asyncio.run(scene())


def test_without_weights_the_worker_ends_with_their_deadline(stage: Stage) -> None:
    with pytest.raises(DeadlineExceeded, match="published no weights"):
        play(stage, lambda: asyncio.sleep(20), stage.worker(weights_timeout_s=0.2))
    assert stage.engine.stops == 1


def test_oddly_announced_weights_are_passed_over(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.publish(0)

    async def scene() -> None:
        await until(lambda: stage.engine.version == 0)
        stage.client.xadd(stage.store._stream, {"version": 1, "name": "../1", "digest": 1})
        stage.client.xadd(stage.store._stream, {"version": "none"})
        await asyncio.sleep(1.5)
        await asyncio.to_thread(stage.publish, 2)
        await until(lambda: stage.engine.version == 2)

    play(stage, scene)
    assert sum("odd way" in message for message in caplog.messages) == 2


def test_what_cannot_be_fetched_is_complained_of_once_and_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder appears later than its announcement, as on a network file system."""
    monkeypatch.setattr("areal.rollout.follower.LOOK_S", 0.1)
    stage.publish(0)

    async def scene() -> None:
        await until(lambda: stage.engine.version == 0)
        await asyncio.to_thread(stage.publish, 1)
        await until(lambda: stage.engine.version == 1)
        stage.client.xadd(stage.store._stream, {"version": 2, "name": "00000002-9", "digest": zlib.crc32(b"2")})
        await asyncio.sleep(0.7)
        assert stage.engine.version == 1
        (stage.folder / "00000002-9").mkdir()
        write(stage.folder / "00000002-9", "2")
        await until(lambda: stage.engine.version == 2)

    play(stage, scene)
    assert sum("passing over version 2" in message for message in caplog.messages) == 1


def test_a_slow_engine_under_fast_publishing_always_finds_its_folder(client: Client, run: str) -> None:
    """Over Redis: versions are deleted there while they are fetched, and locally while newer ones come."""
    stage = Stage(client, run, Path("unused"))
    stage.store = WeightStore(client, run, RedisChunks(client, run), kept=2)
    loaded = []

    class Slow(EchoEngine):
        async def update_weights(self, version: int, path: Path) -> float:
            for _ in range(10):
                assert (path / "model.safetensors").read_text() == str(version)
                await asyncio.sleep(0.005)
            loaded.append(version)
            return await super().update_weights(version, path)

    stage.engine = Slow()
    learner = WeightStore(client, run, RedisChunks(client, run), kept=2)

    def publish() -> None:
        for version in range(100):
            learner.publish(version, lambda to, v=version: write(to, str(v)), epoch=stage.epoch)  # type: ignore[misc]

    async def scene() -> None:
        await asyncio.to_thread(publish)
        await until(lambda: stage.engine.version == 99)

    play(stage, scene)
    assert loaded == sorted(set(loaded)) and loaded[-1] == 99
    assert stage.engine.starts == 1
    assert not Path("unused").exists()


def test_prompts_of_both_lanes_under_the_same_entry_are_both_served(stage: Stage) -> None:
    """Entries are numbered by each lane for itself; those of one millisecond may be equal."""
    stage.publish(0)
    for name in ("train", "eval"):
        body = encode_prompt(Prompt(0, 0, 2, {"prompt": "x"}))
        stage.client.xadd(LaneKeys(stage.run, name).prompts, {"id": 0, "body": body}, id="5-1")
    stage.engine.delay_s = 0.3

    async def scene() -> None:
        await until(lambda: stage.train.depth().groups == stage.eval.depth().groups == 1)

    play(stage, scene)


def test_a_worker_that_leaves_finishes_what_is_under_way_and_takes_nothing_more(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 10)
    stage.engine.delay_s = 2.0  # longer than a lease, which is renewed meanwhile
    fleet = Fleet(stage.client, stage.run)

    async def scene() -> None:
        await until(lambda: stage.engine.requests == 8)
        fleet.keep_orders({"rollout-0": LEAVE})
        await asyncio.sleep(20)

    play(stage, scene)
    assert sorted(group.prompt_id for group in stage.groups(stage.train)) == [0, 1, 2, 3]
    assert stage.train.depth().prompts == 6 and stage.engine.requests == 8
    assert stage.records("worker")[-1]["groups_completed"] == 4 and stage.engine.stops == 1


def test_a_worker_that_is_hurried_hands_back_what_is_under_way(stage: Stage) -> None:
    """Others take it at once, untried, as its lease is not waited for."""
    stage.publish(0)
    stage.issue(stage.train, 3)
    stage.engine.delay_s = 60.0
    fleet = Fleet(stage.client, stage.run)

    async def scene() -> None:
        await until(lambda: stage.engine.requests == 6)
        fleet.keep_orders({"rollout-0": LEAVE})
        await asyncio.sleep(2.5)
        assert stage.engine.stops == 0, "it has time to finish"
        fleet.keep_orders({"rollout-0": DRAIN})
        await asyncio.sleep(20)

    play(stage, scene)
    tickets = Tickets(stage.client, stage.run, "train", BROKER.model_copy(update={"lease_s": 600.0}))
    leases = tickets.lease("rollout-1", count=3, timeout_s=1)
    assert [(lease.prompt.id, lease.attempt) for lease in leases] == [(0, 1), (1, 1), (2, 1)]


def test_a_worker_leaves_though_redis_forgets_that_it_was_told(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 1)
    stage.engine.delay_s = 2.5
    fleet = Fleet(stage.client, stage.run)

    async def scene() -> None:
        await until(lambda: stage.engine.requests == 2)
        fleet.keep_orders({"rollout-0": LEAVE})
        await asyncio.sleep(1.0)
        fleet.keep_orders({"rollout-0": RUN})
        stage.issue(stage.train, 1)
        await asyncio.sleep(20)

    play(stage, scene)
    assert [group.prompt_id for group in stage.groups(stage.train)] == [0]


def test_a_worker_that_was_told_to_leave_before_it_began_takes_nothing(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 1)
    Fleet(stage.client, stage.run).keep_orders({"rollout-0": LEAVE})

    async def scene() -> None:
        await asyncio.sleep(20)

    play(stage, scene)
    assert stage.engine.requests == 0 and stage.engine.stops == 1


def test_the_others_go_on_when_one_leaves(stage: Stage) -> None:
    stage.publish(0)
    stage.issue(stage.train, 40)
    stage.engine.delay_s = 0.2
    fleet = Fleet(stage.client, stage.run)
    engine = EchoEngine()
    stays = stage.worker("rollout-1", engine)

    async def scene() -> None:
        leaves = asyncio.create_task(stage.worker().run())
        await until(lambda: stage.train.depth().groups >= 8)
        fleet.keep_orders({"rollout-0": LEAVE, "rollout-1": RUN})
        await leaves
        await until(lambda: stage.train.depth().groups == 40)

    play(stage, scene, stays)
    groups = stage.groups(stage.train)
    assert sorted(group.prompt_id for group in groups) == list(range(40))
    assert {group.worker for group in groups} == {"rollout-0", "rollout-1"} and engine.stops == 1
