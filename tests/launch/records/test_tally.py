"""The arithmetic of a run, against numbers worked out by hand."""

from typing import Any

import pytest

from areal.launch.records.tally import Record, Tally, surviving_evals, surviving_steps


def step(number: int, *, epoch: int = 1, time: float = 0.0, **values: Any) -> Record:
    return {"kind": "step", "time": time, "step": number, "steps": 10, "version": number, "epoch": epoch, **values}


def evaluation(number: int, accuracy: float, *, time: float = 0.0) -> Record:
    return {"kind": "eval", "time": time, "step": number, "accuracy": accuracy, "length_mean": 10 * accuracy}


def worker(
    time: float, tokens: int, busy_s: float, alive_s: float, *, incarnation: str = "a", **values: object
) -> Record:
    own = {"kind": "worker", "time": time, "worker": "rollout-0", "incarnation": incarnation}
    return {**own, "tokens_generated": tokens, "busy_s": busy_s, "alive_s": alive_s, "weight_updates": 0, **values}


def test_newest_epoch_wins_and_ends_the_older_lineage() -> None:
    records = [step(n, reward_mean=0.1) for n in (1, 2, 3, 4, 5)] + [step(n, epoch=2, reward_mean=0.2) for n in (3, 4)]
    alive = surviving_steps(records)
    assert [(record["step"], record["epoch"]) for record in alive] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_straggler_of_a_dead_lineage_does_not_come_back() -> None:
    records = [step(1), step(2), step(2, epoch=2), step(3, epoch=2), step(3), step(4)]
    assert [(record["step"], record["epoch"]) for record in surviving_steps(records)] == [(1, 1), (2, 2), (3, 2)]


def test_two_restarts_from_ever_earlier_steps() -> None:
    records = [*map(step, range(1, 7)), *(step(n, epoch=2) for n in (5, 6, 7)), *(step(n, epoch=3) for n in (3, 4))]
    assert [record["epoch"] for record in surviving_steps(records)] == [1, 1, 3, 3]


def test_evaluations_of_a_dead_lineage_do_not_count() -> None:
    records = [evaluation(0, 0.1), step(1, time=1), evaluation(1, 0.2, time=1), step(2, time=2)]
    records += [evaluation(2, 0.9, time=2), step(2, epoch=2, time=5)]
    assert [record["accuracy"] for record in surviving_evals(records)] == [0.1, 0.2]
    records += [evaluation(2, 0.3, time=6)]
    assert [record["accuracy"] for record in surviving_evals(records)] == [0.1, 0.2, 0.3]


def test_summary_of_an_empty_run() -> None:
    summary = Tally(100.0).summary()
    assert summary["steps"] == 0 and summary["wall_s"] == 0 and summary["groups_trained"] == 0
    for key in ("reward_first", "eval_last", "staleness_mean", "rollout_busy_fraction", "learner_busy_fraction"):
        assert summary[key] is None
    for key in ("time_to_first_step_s", "tokens_per_s", "update_pause_ms_p50", "groups_lost", "staleness_max"):
        assert summary[key] is None


def test_learner_numbers() -> None:
    tally = Tally(100.0)
    for n, reward in enumerate((0.1, 0.2, 0.3, 0.6, 0.9), start=1):
        values: dict[str, Any] = {
            "reward_mean": reward,
            "tokens_trained": 100 * n,
            "staleness_mean": n,
            "staleness_max": n + 1,
        }
        times: dict[str, Any] = {"train_s": 0.6, "wait_s": 0.3, "publish_s": 0.1, "step_s": 1.0}
        tally.add(step(n, time=110.0 + n, groups=4, tokens_too_old=2, **values, **times))
    tally.add(evaluation(0, 0.25, time=110))
    tally.add(evaluation(5, 0.75, time=116))
    summary = tally.summary()
    assert summary["steps"] == 5 and summary["version"] == 5 and not summary["finished"]
    assert summary["reward_first"] == pytest.approx(0.2) and summary["reward_last"] == pytest.approx(0.6)
    assert summary["staleness_mean"] == pytest.approx(11 / 3)  # (1·1 + 2·2 + … + 5·5) / (1 + 2 + … + 5) = 55 / 15
    assert summary["staleness_max"] == 6 and summary["tokens_trained"] == 1500 and summary["tokens_too_old"] == 10
    assert summary["learner_busy_fraction"] == pytest.approx(0.6)
    assert (summary["eval_first"], summary["eval_last"]) == (0.25, 0.75)
    assert (summary["eval_length_first"], summary["eval_length_last"]) == (2.5, 7.5)
    assert summary["groups_trained"] == 20 and summary["wall_s"] == 16 and summary["time_to_first_step_s"] == 11


def test_a_value_that_was_not_finite_is_left_out() -> None:
    tally = Tally(0.0)
    tally.add({**step(1), "reward_mean": None})
    tally.add(step(2, reward_mean=float("nan")))
    tally.add(step(3, reward_mean=0.5))
    assert tally.summary()["reward_first"] == 0.5


def test_the_final_record_is_believed_until_the_run_goes_on() -> None:
    final = {"kind": "final", "time": 9.0, "groups_trained": 8, "groups_lost": 0}
    final |= {"dead_letters": 1, "outstanding": 2, "finished": False, "step": 2, "version": 2}
    tally = Tally(0.0, earlier=[step(1, groups=4), step(2, groups=4), final])
    summary = tally.summary()
    assert (summary["groups_trained"], summary["groups_lost"], summary["dead_letters"]) == (8, 0, 1)
    tally.add(step(3, epoch=2, groups=4))
    summary = tally.summary()
    assert (summary["groups_trained"], summary["groups_lost"], summary["outstanding"]) == (12, None, None)


def test_worker_numbers_are_summed_over_its_processes() -> None:
    tally = Tally(0.0)
    tally.add(worker(10, 0, 0.0, 8.0))  # the engine took 8 seconds to load
    tally.add(worker(11, 500, 1.0, 9.0, weight_updates=2, update_pause_ms=[4.0, 2.0]))
    tally.add(worker(12, 900, 1.5, 10.0, weight_updates=3, update_pause_ms=[9.0]))
    tally.add(worker(30, 300, 1.0, 9.0, incarnation="b", weight_updates=1, update_pause_ms=[]))
    tally.add(worker(31, 700, 1.5, 10.0, incarnation="b", weight_updates=1))
    summary = tally.summary()
    assert summary["tokens_generated"] == 1600 and summary["weight_updates"] == 4 and summary["restarts"] == 1
    assert summary["rollout_busy_fraction"] == pytest.approx(3 / 4)  # 1.5 of 2 and 1.5 of 2: start-up left out
    assert (summary["update_pause_ms_p50"], summary["update_pause_ms_max"]) == (4.0, 9.0)


def test_what_rewards_count_is_summed_over_processes_and_invocations() -> None:
    assert Tally(0.0).summary()["reward_counters"] == {}
    first = Tally(0.0)
    first.add(worker(10, 0, 1, 1))  # as an older worker tells it
    first.add(worker(11, 0, 1, 1, reward_counters={"requests": 2.0}))
    first.add(worker(12, 0, 1, 1, reward_counters={"requests": 5.0, "cost": 0.5}))
    first.add(worker(13, 0, 1, 1, incarnation="b", reward_counters={"requests": 1.0, "cost": 0.25, "other": 4.0}))
    summary = first.summary()
    assert summary["reward_counters"] == {"requests": 6.0, "cost": 0.75, "other": 4.0}
    second = Tally(100.0, invocations=summary["invocations"])
    second.add(worker(101, 0, 1, 1, incarnation="c", reward_counters={"cost": 1.0, "new": 1.0}))
    assert second.summary()["reward_counters"] == {"requests": 6.0, "cost": 1.75, "other": 4.0, "new": 1.0}
    earlier = [
        {key: value for key, value in each.items() if key != "reward_counters"} for each in summary["invocations"]
    ]
    assert Tally(100.0, invocations=earlier).summary()["reward_counters"] == {}


def test_tokens_per_second_from_the_first_step_to_the_last() -> None:
    tally = Tally(0.0)
    tally.add(worker(10, 1000, 1, 1))
    tally.add(step(1, time=10.5))
    assert tally.summary()["tokens_per_s"] is None
    tally.add(worker(12, 3000, 3, 3))
    tally.add(worker(14, 9000, 5, 5))
    tally.add(step(2, time=14.5))
    tally.add(worker(20, 9100, 5, 11))
    assert tally.summary()["tokens_per_s"] == 2000


def test_a_resumed_run_carries_on() -> None:
    first = Tally(0.0)
    earlier = [step(1, time=5, tokens_trained=10, reward_mean=0.1), step(2, time=6, tokens_trained=10, reward_mean=0.2)]
    for record in (*earlier, worker(6, 100, 1, 2, weight_updates=1, update_pause_ms=[7.0])):
        first.add(record)
    second = Tally(1000.0, earlier=earlier, invocations=first.summary()["invocations"])
    second.add(worker(1002, 50, 1, 1, weight_updates=1, update_pause_ms=[3.0], incarnation="b"))
    second.add(step(2, epoch=2, time=1003, tokens_trained=20, reward_mean=0.4))
    summary = second.summary()
    assert summary["steps"] == 2 and summary["tokens_trained"] == 30
    assert summary["wall_s"] == 6 + 3 and summary["time_to_first_step_s"] == 3
    assert summary["tokens_generated"] == 150 and summary["weight_updates"] == 2
    assert (summary["update_pause_ms_p50"], summary["update_pause_ms_max"]) == (3.0, 7.0)
    assert summary["restarts"] == 0 and len(summary["invocations"]) == 2


def test_a_learner_restart_within_an_invocation_is_counted() -> None:
    tally = Tally(0.0)
    for record in (step(1), step(2), step(2, epoch=2)):
        tally.add(record)
    assert tally.summary()["restarts"] == 1


def test_a_prompt_that_the_surviving_lineage_learned_from_twice_is_counted() -> None:
    tally = Tally(0.0)
    assert tally.summary()["groups_trained_twice"] == 0
    for n, prompts in enumerate(([0, 1], [2, 0], [3, 4], [0, 4]), start=1):
        tally.add(step(n, prompt_ids=prompts))
    assert tally.summary()["groups_trained_twice"] == 3  # 0 two times too often, 4 once


def test_a_prompt_trained_again_after_a_resume_is_not_counted() -> None:
    earlier = [step(1, prompt_ids=[0, 1]), step(2, prompt_ids=[2, 3]), step(3, prompt_ids=[4, 5])]
    tally = Tally(0.0, earlier=earlier)
    for n, prompts in ((2, [2, 3]), (3, [5, 4])):
        tally.add(step(n, epoch=2, prompt_ids=prompts))
    assert tally.summary()["groups_trained_twice"] == 0
    tally.add(step(4, epoch=2, prompt_ids=[1, 6]))  # but step 1 stands, and had 1
    assert tally.summary()["groups_trained_twice"] == 1


def test_what_a_final_record_says_of_prompts_trained_twice_is_not_believed() -> None:
    tally = Tally(0.0)
    tally.add(step(1, prompt_ids=[0, 0]))
    tally.add({"kind": "final", "time": 1.0, "finished": True, "groups_trained_twice": 0})
    assert tally.summary()["groups_trained_twice"] == 1
