"""What is shown of a run, on a terminal and in a file."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from areal.launch.driver.progress import Progress, Status, count, duration, sparkline, step_line
from areal.launch.records.tally import Record, Tally

ESCAPE = "\x1b"


def step(number: int, *, time: float, epoch: int = 1, reward: float = 0.5) -> Record:
    own = {"kind": "step", "time": time, "step": number, "steps": 60, "version": number, "epoch": epoch}
    means = {"reward_mean": reward, "length_mean": 27.1, "truncated_fraction": 0.02, "tokens_trained": 400}
    stale = {"staleness_mean": 1.2, "staleness_max": 3, "groups": 4}
    return {**own, **means, **stale, "train_s": 0.3, "wait_s": 0.2, "publish_s": 0.0, "step_s": 0.5}


def worker(time: float, tokens: int, busy_s: float, *, name: str = "rollout-0", incarnation: str = "a") -> Record:
    own = {"kind": "worker", "time": time, "worker": name, "incarnation": incarnation, "version": 3}
    return {**own, "tokens_generated": tokens, "busy_s": busy_s, "alive_s": time, "weight_updates": 3}


def event(time: float, text: str, level: str = "info") -> Record:
    return {"kind": "event", "time": time, "level": level, "text": text}


def evaluation(number: int, accuracy: float, *, time: float) -> Record:
    own = {"kind": "eval", "time": time, "step": number, "version_min": number, "version_max": number}
    return {**own, "samples": 64, "accuracy": accuracy, "length_mean": 30.0, "truncated_fraction": 0.0}


RECORDS = [
    event(0.5, "loading the model"),
    worker(8.0, 0, 0.0),
    evaluation(0, 0.25, time=8.5),
    worker(9.0, 5000, 0.9),
    step(1, time=9.5, reward=0.2),
    step(2, time=10.0, reward=0.4),
    worker(10.0, 10200, 1.9),
    step(3, time=10.5, reward=0.6),
    event(10.6, "rollout-0 died (exit code -9), restarting", "warning"),
    evaluation(3, 0.75, time=10.7),
]


def shown(console: Console, records: list[Record]) -> str:
    """What stands on the console after a whole run."""
    now = [0.0]
    tally = Tally(0.0)
    with Progress("first", console=console, clock=lambda: now[0]) as progress:
        for record in records:
            now[0] = record["time"]
            tally.add(record)
            progress.show(record)
        progress.finish(tally.summary(), Path("runs/first"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_durations_and_counts() -> None:
    assert [duration(s) for s in (0, 21.4, 61, 3723, -1)] == ["0:00", "0:21", "1:01", "1:02:03", "0:00"]
    assert [count(n) for n in (0, 87.4, 999.4, 999.6, 5120, 12_340_000)] == ["0", "87", "999", "1.0k", "5.1k", "12.3M"]


def test_sparkline() -> None:
    assert sparkline([]) == "" and sparkline([0.5]) == "▁" and sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([0.0, 7.0, 3.0]) == "▁█▄"
    assert sparkline([0.0, 0.0, 7.0, 7.0], cells=2) == "▁█"


def test_step_line() -> None:
    status = Status()
    for record in RECORDS:
        status.add(record)
    # 10,200 tokens in the 2 s between the worker's records, with requests in flight for 1.9 s of them;
    # the learner waits 0.2 of every 0.5 s; 57 steps are left, each 0.5 s after the other.
    assert step_line(status) == (
        "step  3/60  reward  0.60  len  27.1  staleness 1.2/3   5.1k tok/s"
        "  learner waits  40%  rollout waits   5%  eta 0:28"
    )


def test_a_worker_that_restarts_does_not_count_backwards_and_one_that_left_is_forgotten() -> None:
    status = Status()
    for record in (worker(1, 5000, 1), worker(2, 9000, 2), worker(3, 100, 1, incarnation="b")):
        status.add(record)
    assert status.per_worker_second("tokens_generated") == 0
    status.add(worker(5, 700, 2, incarnation="b"))
    assert status.per_worker_second("tokens_generated") == 300
    status.add(worker(30, 10, 1, name="rollout-1"))
    assert list(status.workers) == ["rollout-1"]


def test_steps_taken_again_replace_the_old_ones() -> None:
    status = Status()
    for record in (step(1, time=1), step(2, time=2), step(3, time=3), step(2, time=9, epoch=2)):
        status.add(record)
    assert [(each["step"], each["epoch"]) for each in status.steps] == [(1, 1), (2, 2)]
    assert status.eta_s() == 58 * 0.5
    status.add(step(4, time=10))  # the learner that died had sent it
    assert [(each["step"], each["epoch"]) for each in status.steps] == [(1, 1), (2, 2)]


def test_a_file_gets_plain_aligned_lines() -> None:
    lines = shown(Console(file=io.StringIO(), force_terminal=False, width=40), RECORDS).splitlines()
    assert lines[:2] == [
        "  0.5 s  loading the model",
        "eval 0  accuracy 0.250  len 30.0  truncated 0%  (64 samples, version 0)",
    ]
    assert [line[:11] for line in lines[2:4]] == ["step  1/60 ", "step  3/60 "]  # the second came within a second
    assert lines[4] == " 10.6 s  warning: rollout-0 died (exit code -9), restarting"
    assert lines[5].startswith("eval  3/60  accuracy 0.750")
    assert ESCAPE not in "".join(lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_reward_said_as_it_failed_is_not_obeyed(terminal: bool) -> None:
    told = event(1.0, "prompt 3 failed:\n\x1b]0;owned\x07 [red]loud[/]", "warning")
    out = shown(Console(file=io.StringIO(), force_terminal=terminal), [told])
    assert "\\x1b]0;owned\\x07 [red]loud[/]" in out and "\x1b]0" not in out


def test_the_last_step_is_always_printed() -> None:
    out = shown(Console(file=io.StringIO(), force_terminal=False), [step(59, time=1.0), step(60, time=1.1)])
    assert "step 59/60" in out and "step 60/60" in out


def test_the_table_at_the_end() -> None:
    out = shown(Console(file=io.StringIO(), force_terminal=False), RECORDS)
    table = out[out.index("\nfirst\n") :]
    assert table.splitlines()[2:] == [
        "  steps      3 in 0:11, stopped before the end",
        "  accuracy   0.250 → 0.750 held out",
        "  length     30.0 → 30.0 tokens held out",
        "  reward     0.400 → 0.400 in training",
        "  staleness  mean 1.20, max 3 versions",
        "  tokens     10.2k generated, 1.2k trained; 5,200 generated/s",
        "  busy       learner 60%, rollout 100%",
        "  updates    3, pause – ms (median)",
        "  groups     12 trained, 0 trained twice",
        "  files      runs/first/",
    ]


def test_the_table_shows_what_rewards_counted_in_a_line() -> None:
    counters = {"judge_requests": 1234.0, "judge_cost": 0.1234} | {f"other_{number}": 1.0 for number in range(8)}
    told = worker(10.0, 10200, 1.9) | {"reward_counters": counters}
    out = shown(Console(file=io.StringIO(), force_terminal=False, width=200), [*RECORDS, told])
    others = ", ".join(f"1 other_{number}" for number in range(6))
    assert f"  rewards    1.2k judge_requests, 0.123 judge_cost, {others} and 2 more\n" in out


def test_the_table_of_a_run_that_took_no_step() -> None:
    out = shown(Console(file=io.StringIO(), force_terminal=False), [event(1.0, "the engine did not start", "error")])
    assert "error: the engine did not start" in out and "steps      0 in 0:01, stopped before the end" in out


def test_the_table_counts_groups_once_the_learner_has_said_them() -> None:
    final = {"kind": "final", "time": 11.0, "finished": True, "step": 3, "version": 3, "outstanding": 0}
    final |= {"groups_trained": 12, "groups_lost": 0, "groups_trained_twice": 0, "dead_letters": 1}
    out = shown(Console(file=io.StringIO(), force_terminal=False), [*RECORDS, final])
    assert "  steps      3 in 0:11\n" in out
    assert "  groups     12 trained, 0 lost, 0 trained twice, 1 dead letters\n" in out
    filtered = shown(Console(file=io.StringIO(), force_terminal=False), [*RECORDS, final | {"groups_filtered": 1800}])
    assert "trained twice, 1 dead letters, 1.8k passed over\n" in filtered
    assert "  dead       areal dead list first tells why\n  files      runs/first/\n" in out
    assert "areal dead" not in shown(
        Console(file=io.StringIO(), force_terminal=False), [*RECORDS, final | {"dead_letters": 0}]
    )


def test_a_terminal_shows_the_phase_before_the_first_step() -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = Progress("first", console=console, clock=lambda: now[0])
    now[0] = 4.2
    progress.show(RECORDS[0])
    console.print(progress._draw())
    assert isinstance(console.file, io.StringIO) and "loading the model" in console.file.getvalue().splitlines()[-1]
    assert "4 s" in console.file.getvalue()


def test_a_terminal_shows_the_run() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    now = [0.0]
    progress = Progress("first", console=console, clock=lambda: now[0])
    now[0] = 11.0
    for record in RECORDS:
        progress.show(record)
    console.print(progress._draw())
    text = console.export_text()
    assert "warning: rollout-0 died" in text and "eval " not in text
    for wanted in (
        "step 3/60",
        "0:11 elapsed, 0:28 to go",
        "0.400  ▁▅█",
        "0.250 → 0.750  (version 3)",
        "27.1 tokens, 2% truncated",
        "mean 1.20, max 3 versions",
        "5.1k tok/s generated, 800 tok/s trained",
        "learner 40% · rollout 5%",
        "1: rollout-0 v3 (learner v3)",
    ):
        assert wanted in text


def test_the_live_display_gives_way_to_the_table() -> None:
    out = shown(Console(file=io.StringIO(), force_terminal=True, width=100), RECORDS)
    assert ESCAPE in out and "0.250 → 0.750" in out[out.rindex("steps ") :]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_old_terminal_gets_lines_that_it_can_show(encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, force_terminal=True)
    with Progress("first", console=console) as progress:
        progress.show(event(1.0, "modèle → prêt"))
    file.flush()
    assert "mod?le -> pr?t" in file.buffer.getvalue().decode("ascii")
