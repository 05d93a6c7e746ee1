import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.codec import encode_group
from areal.broker.config import BrokerConfig
from areal.broker.keys import LaneKeys
from areal.broker.lane import Lane
from areal.broker.tickets import Tickets
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory
from areal.learner.evaluator import Evaluator

ROWS = [{"prompt": str(i)} for i in range(4)]


def answer(prompt: Prompt, version: int = 3) -> Group:
    versions = np.array([NOT_AN_ACTION, version, version + 1], np.int32)
    logprobs = np.array([0, -1, -1], np.float32)
    trajectory = TokenTrajectory(
        np.array([1, 2, 3], np.int32),
        versions,
        logprobs,
        float(prompt.row["prompt"] == "1"),
        {},
        "length" if prompt.row["prompt"] == "2" else "stop",
    )
    return Group(prompt.id, (trajectory,) * prompt.group_size, "w")


class Stage:
    def __init__(self, client: Client, run: str) -> None:
        self.client, self.keys = client, LaneKeys(run, "eval")
        self.lane = Lane(client, run, "eval")
        self.tickets = Tickets(client, run, "eval", BrokerConfig(max_attempts=1, lease_s=60))
        self.bulletin = Bulletin(client, run)
        self.reports: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.evaluator = self.new()

    def new(self, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Evaluator:
        self.epoch = self.bulletin.lead()
        report, warn = self.reports.append, self.warnings.append
        return Evaluator(self.lane, rows, samples=2, epoch=self.epoch, report=report, warn=warn, **options)

    def serve(self, count: int, *, failing: Callable[[Prompt], bool] = lambda _: False) -> None:
        for lease in self.tickets.lease("w", count=count, timeout_s=1):
            if failing(lease.prompt):
                self.tickets.fail("w", lease, "failed")
            else:
                assert lease.prompt.min_version == 3
                self.tickets.complete(lease, answer(lease.prompt))


@pytest.fixture
def stage(client: Client, run: str) -> Iterator[Stage]:
    made = Stage(client, run)
    yield made
    made.evaluator.close()


def test_a_round_is_reported_when_all_its_answers_are_in(stage: Stage) -> None:
    assert stage.evaluator.begin(step=10, version=3)
    assert not stage.evaluator.begin(step=11, version=3)
    stage.serve(3)
    assert not stage.evaluator.finish(0.1)
    stage.serve(1)
    assert stage.evaluator.finish(5)
    (record,) = stage.reports
    del record["time"]
    assert record == {
        "kind": "eval",
        "step": 10,
        "version_min": 3,
        "version_max": 4,
        "samples": 8,
        "accuracy": 0.25,
        "length_mean": 2.0,
        "truncated_fraction": 0.25,
        "unanswered": 0,
    }
    assert stage.lane.depth().groups == 0
    assert stage.evaluator.begin(step=20, version=3)
    stage.serve(4)
    assert stage.evaluator.finish(5)
    assert [report["step"] for report in stage.reports] == [10, 20]


def test_dead_lettered_rows_do_not_hold_a_round_up(stage: Stage) -> None:
    stage.evaluator.begin(step=10, version=3)
    stage.serve(4, failing=lambda prompt: prompt.row["prompt"] in "03")
    assert stage.evaluator.finish(5)
    assert (stage.reports[0]["samples"], stage.reports[0]["accuracy"]) == (4, 0.5)
    assert stage.reports[0]["unanswered"] == 2


def test_what_is_seen_of_the_answers_is_reported_too(stage: Stage) -> None:
    stage.evaluator = stage.new(
        examine=(lambda step, rows: {"step_seen": step}, lambda _, rows: {"rows": sorted(rows)})
    )
    stage.evaluator.begin(step=10, version=3)
    stage.serve(4, failing=lambda prompt: prompt.row["prompt"] == "1")
    assert stage.evaluator.finish(5)
    assert (stage.reports[0]["step_seen"], stage.reports[0]["rows"]) == (10, [0, 2, 3])


def test_who_fails_to_look_costs_what_it_would_have_found_and_not_the_reward(stage: Stage) -> None:
    def judge(step: int, rows: Mapping[int, Group[Any]]) -> dict[str, Any]:
        raise ValueError("they have no label")

    stage.evaluator = stage.new(examine=(judge, lambda step, rows: {"pictures": step}))
    for step in (10, 20):
        assert stage.evaluator.begin(step=step, version=3)
        stage.serve(4)
        assert stage.evaluator.finish(5)
    assert [(report["accuracy"], report["pictures"]) for report in stage.reports] == [(0.25, 10), (0.25, 20)]
    assert stage.warnings[0] == "the evaluation of step 10 is reported without all its measurements: they have no label"
    assert len(stage.warnings) == 2


def test_a_round_that_cannot_be_reported_is_warned_of(stage: Stage) -> None:
    def report(record: dict[str, Any]) -> None:
        raise OSError("the disk is full")

    evaluator = Evaluator(stage.lane, ROWS, samples=2, epoch=stage.epoch, report=report, warn=stage.warnings.append)
    evaluator.begin(step=10, version=3)
    stage.serve(4)
    assert evaluator.finish(5)
    assert stage.warnings == ["the evaluation of step 10 failed: the disk is full"]


def test_a_round_of_an_earlier_learner_is_not_mixed_in(stage: Stage) -> None:
    stage.evaluator.begin(step=10, version=3)
    stage.serve(2)
    stage.evaluator.close()
    stage.evaluator = stage.new()
    stage.evaluator.begin(step=11, version=3)
    stage.serve(6)
    assert stage.evaluator.finish(5)
    assert [(report["step"], report["samples"]) for report in stage.reports] == [(11, 8)]
    assert stage.lane.depth().groups == 0


def test_an_answer_that_comes_with_the_last_look_is_counted(client: Client, run: str) -> None:
    """The last prompt is completed just after a look that found no group, and before the one at the depth."""
    stage = Stage(client, run)
    late = threading.Event()

    class Late(Lane):
        def depth(self) -> Any:
            if stage.evaluator._thread is threading.current_thread() and not late.is_set():
                late.set()
                stage.serve(4)
            return super().depth()

    stage.lane = Late(client, run, "eval")
    stage.evaluator = stage.new()
    stage.evaluator.begin(step=10, version=3)
    assert stage.evaluator.finish(5)
    assert stage.reports[0]["samples"] == 8
    stage.evaluator.close()


def test_a_round_that_could_not_be_issued_is_left_out(client: Client, run: str) -> None:
    """Redis came back older between the look at how much is issued, and the issuing."""
    stage = Stage(client, run)

    class Older(Lane):
        def issue(self, prompts: Sequence[Prompt], *, after: int, epoch: int) -> int:
            if after:
                client.set(LaneKeys(run, "eval").issued, 0)
            return super().issue(prompts, after=after, epoch=epoch)

    stage.lane = Older(client, run, "eval")
    stage.evaluator = stage.new()
    assert stage.evaluator.begin(step=10, version=3)
    stage.serve(4)
    assert stage.evaluator.finish(5)
    assert not stage.evaluator.begin(step=20, version=3)
    assert stage.evaluator.finish(0), "no round is under way"
    assert stage.evaluator.begin(step=30, version=3)
    stage.serve(4)
    assert stage.evaluator.finish(5)
    assert [(report["step"], report["samples"]) for report in stage.reports] == [(10, 8), (30, 8)]
    stage.evaluator.close()


def test_without_rows_a_round_is_done_at_once(stage: Stage) -> None:
    evaluator = stage.new([])
    assert evaluator.begin(step=0, version=0) and evaluator.finish(0)
    assert stage.lane.depth().issued == 0 and stage.reports == []


def test_a_group_that_comes_back_from_an_older_redis_does_not_keep_a_round_open(stage: Stage) -> None:
    """What was acknowledged returns while the round waits, and one of its rows is dead-lettered."""
    assert stage.evaluator.begin(step=1, version=3)
    keys = stage.keys
    stage.serve(3)
    deadline = time.monotonic() + 5
    while stage.lane.depth().groups:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    body = encode_group(answer(Prompt(0, 3, 2, ROWS[0])))
    stage.client.set(keys.body("back"), body)
    stage.client.xadd(keys.groups, {"id": 0, "claim": "back", "size": len(body)})
    stage.serve(1, failing=lambda _: True)
    assert stage.evaluator.finish(5)
    assert stage.lane.depth().groups == 0
