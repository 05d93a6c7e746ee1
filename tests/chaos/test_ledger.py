"""The verdict on ledgers written by hand."""

from collections.abc import Sequence

from .journal import (
    Acknowledged,
    Answered,
    Completed,
    Delivered,
    Durable,
    Entry,
    Failed,
    Issued,
    Leased,
    Led,
    Loaded,
    Record,
    RedisDied,
    Replaced,
    Resumed,
    Struck,
    Trained,
)
from .ledger import DeadLetter, Remains, Verdict, judge

BOUND = 4
B = 2


class Writer:
    """Writes entries, a second apart."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def note(self, process: str, *records: Record) -> None:
        self.entries += [Entry(float(len(self.entries) + i), process, record) for i, record in enumerate(records)]


def step(number: int, *positions: int, epoch: int = 1) -> Trained:
    return Trained(epoch, number, number, list(positions), [0] * len(positions), 0)


def issued(*positions: int, epoch: int = 1) -> Issued:
    return Issued(epoch, list(positions))


def judged(writer: Writer, remains: Remains) -> Verdict:
    return judge(writer.entries, remains, bound=BOUND, groups_per_step=B)


def fine() -> Writer:
    """Two learners: the first dies at step 3 with a checkpoint of step 2 behind it, so that step 3 is taken again."""
    writer = Writer()
    writer.note("learner.1", Led(1), issued(0, 1, 2, 3), Delivered(["a", "b"], [0, 1]), step(1, 0, 1))
    writer.note("learner.1", issued(4, 5), step(2, 2, 3), issued(6, 7), Durable(1, 2, [[0, 4]]))
    writer.note("learner.1", Acknowledged(1, ["a", "b"]), step(3, 4, 5), issued(8, 9))
    writer.note(
        "learner.2", Led(2), Resumed(1, 2), step(3, 5, 6, epoch=2), step(4, 4, 7, epoch=2), Durable(2, 4, [[0, 8]])
    )
    return writer


def test_each_position_learned_from_once_is_fine() -> None:
    verdict = judged(fine(), Remains(issued=10, prompts=(8,), groups=(9,)))
    assert verdict.problems == []
    assert (verdict.issued, verdict.learned, verdict.steps, verdict.outstanding) == (10, 8, 4, [8, 9])
    assert verdict.max_outstanding == 4


def test_a_position_that_is_nowhere_is_lost() -> None:
    verdict = judged(fine(), Remains(issued=10, groups=(9,)))
    assert verdict.lost == [8]
    assert "position 8 is lost" in verdict.problems[0] and "issued in epoch 1" in verdict.problems[0]


def test_a_position_that_only_a_worker_knew_of_is_lost_too() -> None:
    writer = fine()
    writer.note("rollout-0.1", Leased(10, 1))
    assert judged(writer, Remains(issued=11, prompts=(8, 9))).lost == [10]


def test_a_position_in_a_step_that_no_checkpoint_has_is_not_learned() -> None:
    writer = fine()
    writer.note("learner.3", Led(3), Resumed(1, 2), step(3, 4, 6, epoch=3), step(4, 8, 9, epoch=3))
    assert judged(writer, Remains(issued=10)).lost == [5, 7]


def test_a_position_in_two_steps_is_learned_twice() -> None:
    writer = fine()
    writer.note("learner.2", step(5, 3, 8, epoch=2))
    verdict = judged(writer, Remains(issued=10, groups=(9,)))
    assert verdict.learned_twice == [3]
    assert verdict.problems == [
        "position 3 was learned from 2 times: step 2 of epoch 1, step 5 of epoch 2",
    ]


def test_a_dead_letter_accounts_for_its_position_if_it_names_a_cause() -> None:
    remains = Remains(issued=10, groups=(9,), dead=(DeadLetter(8, 20.0, "silence"),))
    assert judged(fine(), remains).problems == []
    remains = Remains(issued=10, groups=(9,), dead=(DeadLetter(8, 20.0, ""),))
    assert judged(fine(), remains).problems == ["the dead letter of position 8 names no cause"]


def test_a_position_is_dead_and_learned_from_only_if_redis_may_have_forgotten() -> None:
    writer = fine()
    remains = Remains(issued=10, groups=(8, 9), dead=(DeadLetter(3, 20.0, "silence"),))
    assert judged(writer, remains).problems == ["positions 3 were learned from, and are dead letters too"]
    writer.note("harness", RedisDied(100))
    verdict = judged(writer, remains)
    assert (verdict.problems, verdict.dead_though_learned) == ([], 1)


def test_a_bound_that_broke_is_named_with_those_beyond_it() -> None:
    writer = fine()
    writer.note("learner.2", issued(10, 11, 12, epoch=2))
    verdict = judged(writer, Remains(issued=13, prompts=(8, 9, 10, 11)))
    assert verdict.max_outstanding == 5
    assert "5 outstanding, the bound is 4, when learner.2 (epoch 2) issued 10, 11, 12" in verdict.problems[1]
    assert verdict.lost == [12]


def test_what_a_dead_learner_had_learned_counts_as_outstanding_again() -> None:
    writer = Writer()
    writer.note("learner.1", Led(1), issued(0, 1, 2, 3), step(1, 0, 1))
    writer.note("learner.2", Led(2), issued(4, epoch=2))
    assert "5 outstanding" in judged(writer, Remains(issued=5, groups=(0, 1, 2, 3))).problems[-1]


def test_a_dead_letter_makes_room_from_its_time_on() -> None:
    for died_at, problems in ((3.0, 0), (9.0, 1)):
        writer = Writer()
        writer.note("learner.1", Led(1), issued(0, 1, 2, 3), issued(0), issued(0), issued(4))
        remains = Remains(issued=5, groups=(1, 2, 3, 4), dead=(DeadLetter(0, died_at, "silence"),))
        assert len(judged(writer, remains).problems) == problems


def test_a_dead_letter_that_redis_forgot_made_room_the_first_time() -> None:
    for again, problems in ((False, 0), (True, 1)):
        writer = Writer()
        writer.note("learner.1", Led(1), issued(0, 1, 2, 3))
        writer.note("rollout-0.1", Failed(0, again))
        writer.note("learner.1", issued(4))
        remains = Remains(issued=5, groups=(1, 2, 3, 4), dead=(DeadLetter(0, 9.0, "it came again, and failed again"),))
        assert len(judged(writer, remains).problems) == problems


def test_an_issue_that_redis_forgot_is_withdrawn_only_above_what_it_knows_and_if_it_died() -> None:
    writer = fine()
    assert judged(writer, Remains(issued=8)).lost == [8, 9]
    writer.note("harness", RedisDied(100))
    verdict = judged(writer, Remains(issued=8))
    assert (verdict.withdrawn, verdict.problems) == ([8, 9], [])
    assert judged(writer, Remains(issued=9)).lost == [8]


def test_an_acknowledgement_before_the_checkpoint_is_named() -> None:
    writer = fine()
    writer.note("learner.2", Delivered(["i"], [8]), Acknowledged(2, ["i"]), Durable(2, 4, [[0, 8]]))
    verdict = judged(writer, Remains(issued=10, prompts=(8,), groups=(9,)))
    assert verdict.problems == ["learner.2 acknowledged 8, which no durable checkpoint of its has"]


def test_a_prompt_is_completed_twice_only_if_redis_may_have_forgotten() -> None:
    def completed(*deaths: float) -> Sequence[str]:
        writer = fine()
        writer.note("rollout-0.1", Completed(9, True))
        first = writer.entries[-1].time
        writer.note("rollout-1.1", Leased(9, 2), Completed(9, False), Leased(9, 2), Leased(9, 2), Completed(9, True))
        writer.entries += [Entry(first + death, "harness", RedisDied(0)) for death in deaths]
        verdict = judged(writer, Remains(issued=10, prompts=(8,), groups=(9,)))
        assert verdict.refused == 1
        return verdict.problems

    assert completed(0.5) == []
    for deaths in ((), (4.0,), (6.0,), (-2.0,)):
        (problem,) = completed(*deaths)
        assert problem.startswith("position 9 was completed twice, by rollout-0.1 and 5.00 s later by rollout-1.1")


def test_a_gap_in_the_steps_a_short_step_and_a_false_account_are_named() -> None:
    writer = fine()
    writer.note("learner.2", step(6, 8, epoch=2), Durable(2, 6, [[0, 8]]))
    assert judged(writer, Remains(issued=10, prompts=(9,))).problems == [
        "no record of steps 5 in the surviving lineage",
        "steps 6 are not of 2 groups",
        "the checkpoint of step 6 claims none, which were not learned from, and lacks 8, which were",
    ]


def test_more_than_the_bound_at_the_end_is_named() -> None:
    verdict = judged(fine(), Remains(issued=13, prompts=(8, 9, 10, 11, 12)))
    assert verdict.problems == ["5 positions are outstanding at the end, the bound is 4"]


def test_learners_that_were_given_one_epoch_are_told_apart() -> None:
    """Redis forgot that learner.2 led: learner.3 leads the same epoch, and its lineage is the one that survives."""
    writer = fine()
    writer.note("learner.3", Led(2), Resumed(1, 2), step(3, 4, 5, epoch=2), Durable(2, 3, [[0, 6]]))
    writer.note("learner.4", Led(3), Resumed(2, 3), step(4, 6, 7, epoch=3))
    verdict = judged(writer, Remains(issued=10, groups=(8, 9)))
    assert (verdict.problems, verdict.learned, verdict.learners) == ([], 8, 4)


def test_a_learner_that_stands_still_is_named_unless_it_was_made_to() -> None:
    def stood(*between: Record, process: str = "learner.2") -> list[str]:
        writer = fine()
        writer.note("learner.2", Loaded(), step(5, 8, 9, epoch=2))
        writer.note("harness", *between)
        last = Entry(writer.entries[-1].time + 40.0, process, Answered())
        return judge([*writer.entries, last], Remains(issued=10), bound=BOUND, groups_per_step=B).problems

    assert stood() == ["learner.2 took no step for 40 s or more, from 17.000 on"]
    assert stood(process="rollout-0.1") == []
    assert stood(Replaced("learner.2")) == stood(Struck(1, "learner_kill", "learner.2", "", 0.0)) == []
