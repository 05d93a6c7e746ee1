"""`areal dead`, as a person calls it."""

import io
import json
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from areal.broker.codec import encode_prompt
from areal.broker.dead import DeadLetters
from areal.broker.lane import Depth
from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, Prompt, TokenTrajectory
from areal.launch.cli import main
from areal.launch.records.letter import MAX_TRAJECTORIES, telling_line

from ..conftest import Areal
from ..stage import Stage

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold red]loud[/] :boom: \\[x]"
TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 1, in _serve
    raise
areal.RewardError: reward 'r' failed 2 times, lastly: Traceback (most recent call last):
  File "mine.py", line 4, in r
    raise ValueError("no answer")
ValueError: no answer
in the row
"""


def lines(text: str) -> list[list[str]]:
    """The cells of a table."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def tokens(*, reward: float, sampled: int = 3, reason: str = "stop") -> TokenTrajectory:
    versions = np.array([NOT_AN_ACTION, NOT_AN_ACTION, *(4 + i // 2 for i in range(sampled))], np.int32)
    logprobs = np.where(versions >= 0, -1, 0).astype(np.float32)
    return TokenTrajectory(
        np.arange(10, 12 + sampled, dtype=np.int32), versions, logprobs, reward, {"r": reward}, reason
    )


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        ("", "–"),
        (" \n\n", "–"),
        ("a group of 3 bytes was announced\nand more", "a group of 3 bytes was announced"),
        (TRACEBACK, "ValueError: no answer"),
        ("Traceback (most recent call last):\n  File x", "  File x".strip()),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("tab\tand\x07bell", "tab and\\x07bell"),
    ],
)
def test_the_line_of_a_cause_that_tells_most(cause: str, line: str) -> None:
    assert telling_line(cause) == line


def test_the_list_has_a_line_for_each(stage: Stage, areal: Areal, run: str) -> None:
    first, second = stage.bury(TRACEBACK, "too long")
    group = stage.bury_group("not finite")
    (held_out,) = stage.bury("odd", lane="eval", worker="rollout-1")
    code, out, _ = areal("dead", "list", run)
    assert code == 0
    head, *rows, blank, total = lines(out)
    assert head == ["entry", "lane", "position", "from", "attempts", "worker", "when", "cause"]
    assert [row[:6] + row[7:] for row in rows] == [
        [first.entry, "train", "0", "prompt", "1", "w", "ValueError: no answer"],
        [second.entry, "train", "1", "prompt", "1", "w", "too long"],
        [group.entry, "train", "2", "group", "1", "w", "not finite"],
        [held_out.entry, "eval", "0", "prompt", "1", "rollout-1", "odd"],
    ]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", row[6]) for row in rows)
    assert blank == [""] and " ".join(total) == (
        f"4 dead letters, 1 of the evaluation lane; areal dead show {run} ENTRY tells all of one"
    )
    assert len(lines(areal("dead", "list", run, "--lane", "eval")[1])) == 4


def test_a_run_without_letters_says_so(stage: Stage, areal: Areal, run: str) -> None:
    assert areal("dead", "list", run) == (0, f"{run} has no dead letters\n", "")
    assert areal("dead", "list", run, "--json") == (0, "", "")
    for action in ("retry", "drop"):
        assert areal("dead", action, run, "--all") == (0, "there were none\n", "")


def test_the_list_for_programs_is_a_line_of_json_for_each(stage: Stage, areal: Areal, run: str) -> None:
    began = time.time()
    (letter,) = stage.bury(TRACEBACK + NASTY)
    code, out, _ = areal("dead", "list", run, "--json")
    (record,) = map(json.loads, out.splitlines())
    assert code == 0 and out.isascii() and "\x1b" not in out
    assert began - 2 < record.pop("time") < time.time() + 2
    assert record == {
        "run": run,
        "lane": "train",
        "entry": letter.entry,
        "position": 0,
        "from": "prompt",
        "attempts": 1,
        "worker": "w",
        "cause": TRACEBACK + NASTY,
    }


def test_a_prompt_is_shown_with_its_whole_cause_and_its_row(stage: Stage, areal: Areal, run: str) -> None:
    (letter,) = stage.bury(TRACEBACK, row={"prompt": "größer?", "answer": [1, {"deep": None}]})
    code, out, _ = areal("dead", "show", run, letter.entry)
    assert code == 0 and out.startswith(f"{letter.entry}  train lane\n  position  0\n  from      prompt\n")
    assert all(f"    {line}\n" in out for line in TRACEBACK.splitlines())
    assert "  wanted    2 samples of version ≥ 0\n" in out and re.search(r"when +\d{4}-.* \(\d\.\d s ago\)\n", out)
    row = out[out.index("  row\n") + 6 :]
    assert json.loads(row) == {"prompt": "größer?", "answer": [1, {"deep": None}]} and "größer" in row
    (record,) = map(json.loads, areal("dead", "show", run, letter.entry, "--json")[1].splitlines())
    assert record["cause"] == TRACEBACK
    assert record["payload"] == {
        "prompt_id": 0,
        "group_size": 2,
        "min_version": 0,
        "row": {"prompt": "größer?", "answer": [1, {"deep": None}]},
    }


def test_a_group_is_shown_trajectory_by_trajectory(stage: Stage, areal: Areal, run: str) -> None:
    many = tuple(tokens(reward=0.0, sampled=1) for _ in range(MAX_TRAJECTORIES))
    made = Group(0, (tokens(reward=0.25, sampled=20, reason="length"), *many), "rollout-1", 10.0, 12.5)
    letter = stage.bury_group("not finite", made)
    code, out, _ = areal("dead", "show", run, letter.entry)
    assert code == 0 and "  group     prompt 0, made by rollout-1 in 2.5 s\n" in out
    head, first, second = lines(out[out.index("reward") :])[:3]
    assert head == ["reward", "length", "finish", "versions", "first tokens"]
    assert first == ["0.25", "20", "length", "4 5 6…", "12 13 14 15 16 17 18 19 20 21 22 23 …"]
    assert second == ["0", "1", "stop", "4", "12"]
    assert "and 1 more (--json has them all)" in out
    payload = json.loads(areal("dead", "show", run, letter.entry, "--json")[1])["payload"]
    assert (payload["prompt_id"], payload["worker"], len(payload["trajectories"])) == (0, "rollout-1", 33)
    assert payload["trajectories"][0] == {
        "reward": 0.25,
        "reward_parts": {"r": 0.25},
        "length": 20,
        "prompt_length": 2,
        "finish_reason": "length",
        "versions": list(range(4, 14)),
        "first_tokens": list(range(12, 24)),
    }


def test_a_group_of_images_is_shown_too(stage: Stage, areal: Areal, run: str) -> None:
    image = DenoisingTrajectory(
        latents=np.zeros((4, 2, 8, 8), np.float16),
        timesteps=np.array([900, 500, 100, 1], np.int32),
        behaviour_logprobs=np.array([-10, 5, 2000], np.float32),
        version=7,
        condition={"prompt": NASTY},
        guidance=1.5,
        seed=11,
        reward=0.125,
    )
    letter = stage.bury_group("not finite", Group(0, (image,), "w", 0.0, 1.0))
    out = areal("dead", "show", run, letter.entry)[1]
    assert lines(out[out.index("reward") :])[:2] == [
        ["reward", "length", "finish", "versions", "image"],
        ["0.125", "3", "–", "7", "latents 4×2×8×8, seed 11, guidance 1.5"],
    ]
    (trajectory,) = json.loads(areal("dead", "show", run, letter.entry, "--json")[1])["payload"]["trajectories"]
    assert (trajectory["condition"], trajectory["latents"]) == ({"prompt": NASTY}, [4, 2, 8, 8])


def test_several_are_shown_in_the_order_they_were_named(stage: Stage, areal: Areal, run: str) -> None:
    first, second = stage.bury("one", "two")
    out = areal("dead", "show", run, second.entry, first.entry, second.entry, "--json")[1]
    assert [json.loads(line)["cause"] for line in out.splitlines()] == ["two", "one"]


def test_the_beginning_of_an_entry_is_enough_where_only_one_begins_so(stage: Stage, areal: Areal, run: str) -> None:
    for entry in ("1763000000001-0", "1763000000001-10", "1763000000200-0"):
        stage.put({"id": "1", "cause": entry}, entry=entry)
    stage.put({"id": "1", "cause": "held out"}, entry="1763000000200-0", lane="eval")

    def causes(*names: str) -> list[str]:
        code, out, err = areal("dead", "show", run, *names, "--json")
        assert code == 0, err
        return [json.loads(line)["cause"] for line in out.splitlines()]

    assert causes("1763000000001-1") == ["1763000000001-10"]
    assert causes("1763000000001-0") == ["1763000000001-0"], "an entry is itself, though another begins with it"
    assert causes("17630000002", "--lane", "train") == ["1763000000200-0"]
    assert causes("1763000000200-0", "--lane", "eval") == ["held out"]
    for name, says in (
        ("1763", "1763 may be any of 1763000000001-0, 1763000000001-10, 1763000000200-0, …: give more of it"),
        ("1763000000001", "may be any of 1763000000001-0, 1763000000001-10: give"),
        ("1763000000200-0", "is there in both lanes: say which with --lane train or --lane eval"),
        ("1763000000200", "1763000000200 is there in both lanes"),
        ("99", f"{run} has no dead letter 99: areal dead list {run} shows"),
        ("9" * 18 + "-1", "has no dead letter 9999"),
        ("9" * 30 + "-1", "has no dead letter 9999"),
        ("", "has no dead letter "),
        ("*", "has no dead letter *"),
    ):
        for action in ("show", "retry", "drop"):
            code, out, err = areal("dead", action, run, "1763000000001-0", name)
            assert (code, out) == (1, "") and says in err, (action, name)
    assert stage.lane().depth().dead == 3 and stage.lane("eval").depth().dead == 1, "nothing was done"


def test_what_is_tried_again_goes_when_the_learner_has_room(stage: Stage, areal: Areal, run: str) -> None:
    letters = stage.bury("one", "two", "three")
    assert areal("dead", "retry", run, letters[0].entry) == (
        0,
        f"1 dead letter of {run} will be tried again, when the run is next started\n",
        "",
    )
    stage.beat()
    out = areal("dead", "retry", run, letters[1].entry, letters[2].entry)[1]
    assert out == f"2 dead letters of {run} will be tried again, as soon as the learner has room\n"
    assert stage.lane().depth() == Depth(3, 0, 0, 0, again=3)
    assert stage.lane().resume(9, waiting=stage.lane().depth().again, epoch=stage.epoch) == 3


def test_what_is_dropped_is_never_issued_again(stage: Stage, areal: Areal, run: str) -> None:
    one, two, _ = stage.bury("one", "two", "three")
    assert (
        areal("dead", "drop", run, one.entry)[1]
        == f"1 dead letter of {run} dropped; its position is never issued again\n"
    )
    assert areal("dead", "drop", run, "--all")[1].endswith(
        "2 dead letters of " + run + " dropped; their positions are never issued again\n"
    )
    assert stage.lane().depth() == Depth(3, 0, 0, 0, dropped=3) and stage.lane().positions() == {0, 1, 2}
    assert areal("dead", "retry", run, two.entry)[0] == 1


def test_letters_of_the_evaluation_lane_can_only_be_dropped(stage: Stage, areal: Areal, run: str) -> None:
    (letter,) = stage.bury("one")
    held_out, other = stage.bury("two", "three", lane="eval")
    code, _, err = areal("dead", "retry", run, letter.entry, held_out.entry, "--lane", "eval")
    assert code == 1 and "has no dead letter" in err
    code, out, err = areal("dead", "retry", run, held_out.entry)
    assert (code, out) == (1, "") and "its round is over, so that it can only be dropped. Nothing was done" in err
    code, out, err = areal("dead", "retry", run, "--all", "--lane", "eval")
    assert (code, out) == (1, "") and "cannot be tried again, as their rounds are over: drop them" in err
    code, out, _ = areal("dead", "retry", run, "--all")
    assert code == 0 and out == (
        f"1 dead letter of {run} will be tried again, when the run is next started\n"
        "2 letters of the evaluation lane stayed: their rounds are over; drop them\n"
    )
    assert areal("dead", "drop", run, other.entry)[0] == 0
    assert areal("dead", "drop", run, "--all", "--lane", "train")[1] == "there were none\n"
    assert areal("dead", "drop", run, "--all")[0] == 0
    assert stage.lane("eval").depth() == Depth(2, 0, 0, 0, dropped=2)


def test_one_that_goes_meanwhile_is_told(stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = stage.bury("one", "two")
    monkeypatch.setattr("areal.launch.records.letters._exact", lambda run, lanes, name: [("train", name)])
    stage.dead().drop([two])
    assert areal("dead", "drop", run, one.entry, two.entry)[1] == (
        f"1 dead letter of {run} dropped; its position is never issued again\n1 letter had gone meanwhile\n"
    )
    assert areal("dead", "retry", run, two.entry)[1] == "1 letter had gone meanwhile\n"


def test_those_that_die_again_meanwhile_are_not_tried_without_end(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.bury(*"abc")
    retry = DeadLetters.retry

    def and_dies_again(dead: DeadLetters, letters: Any) -> int:
        stage.put({"id": "7", "cause": "again"})
        return retry(dead, letters)

    monkeypatch.setattr(DeadLetters, "retry", and_dies_again)
    assert areal("dead", "retry", run, "--all")[1].startswith("3 dead letters")
    assert [letter.cause for letter in stage.dead().list()] == ["again"] * 3


def test_thousands_are_listed_tried_again_and_dropped(stage: Stage, areal: Areal, run: str) -> None:
    made: Any = stage.client.pipeline(transaction=False)
    for index in range(3000):
        made.xadd(f"areal:{{{stage.key}}}:train:dead", {"id": str(index), "from": "prompts", "cause": f"cause {index}"})
    made.execute()
    code, out, _ = areal("dead", "list", run)
    rows = lines(out)[1:-2]
    assert code == 0 and [row[-1] for row in rows] == [f"cause {index}" for index in range(3000)]
    assert out.splitlines()[-1].startswith("3,000 dead letters;") and out.count("entry") == 1
    last = rows[-1][0]
    assert json.loads(areal("dead", "show", run, last, "--json")[1])["cause"] == "cause 2999"
    assert areal("dead", "retry", run, "--all")[1].startswith("3,000 dead letters of")
    assert stage.lane().depth() == Depth(0, 0, 0, 0, again=3000)


# What anyone may have written


def hostile(stage: Stage) -> list[str]:
    """Letters that nobody of ours has written; returns their entries."""
    row = encode_prompt(Prompt(1, 0, 1, {NASTY: [NASTY, float("nan")]}))
    return [
        stage.put({"id": NASTY, "from": NASTY, "cause": NASTY, "worker": NASTY, "attempts": NASTY, "body": NASTY}),
        stage.put({"id": "1", "from": "prompts", "cause": TRACEBACK.replace("no answer", NASTY), "body": row}),
        stage.put({"id": "2", "from": "groups", "claim": NASTY, "cause": b"\xff\xfe"}),
        stage.put({"id": "3", "from": "prompts", "cause": "a\r\nb\rc\u2028d\ttab", "body": b"\x00" * 100}),
        stage.put({"other": "x"}),
        stage.put({"cause": "far away"}, entry=f"{2**63}-{2**63}"),
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_of_it_reaches_a_terminal_raw(
    stage: Stage, areal: Areal, run: str, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "120"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
    entries = hostile(stage)
    shown = [areal("dead", "list", run), areal("dead", "show", run, *entries)]
    for code, out, err in shown:
        assert (code, err) == (0, "")
        ours = re.sub(r"\x1b\[[0-9;]*m", "", out) if terminal else out
        assert terminal == (ours != out)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", ours)
        assert "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e[bold red]lou" in ours, (
            "written out, and its markup not obeyed"
        )
        assert not re.search(r"\x1b\[(2J|[0-9;]*31m|1;31m)", out)
    for arguments in (("list", run), ("show", run, *entries)):
        code, out, _ = areal("dead", *arguments, "--json")
        assert code == 0 and out.isascii() and re.search(r"[\x00-\x09\x0b-\x1f]", out) is None
        assert [json.loads(line)["entry"] for line in out.splitlines()] == entries


def test_payloads_that_cannot_be_read_are_told_as_such(stage: Stage, areal: Areal, run: str) -> None:
    odd, row, gone, zeros, empty, far = hostile(stage)
    told = {}
    for line in areal("dead", "show", run, odd, row, gone, zeros, empty, far, "--json")[1].splitlines():
        record = json.loads(line)
        told[record["entry"]] = record["payload"].get("error", "")
    assert told[row] == ""
    assert re.match(r"\d+ bytes that cannot be read: .*wire format", told[odd])
    assert told[gone] == told[empty] == told[far] == "its bytes are gone"
    assert "wire format 0" in told[zeros]
    out = areal("dead", "show", run, zeros, far)[1]
    assert f"    {'00' * 64}…\n" in out and "  when      –\n" in out and "  position  –\n" in out


def test_a_row_that_is_nested_too_deeply_is_told_as_such(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (letter,) = stage.bury("one")

    def too_deep(value: object) -> str:
        raise RecursionError

    monkeypatch.setattr("areal.launch.records.letter.to_json", too_deep)
    out = areal("dead", "show", run, letter.entry)[1]
    assert re.search(r"payload +\d+ bytes that cannot be read: nested too deeply", out)


def test_a_narrow_terminal_cuts_the_cause_alone(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (letter,) = stage.bury("x" * 300)
    for columns in (120, 20):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
        row = re.sub(r"\x1b\[[0-9;]*m", "", areal("dead", "list", run)[1]).splitlines()[1]
        assert row.startswith(letter.entry) and row.endswith("x…")
        assert len(row) == max(columns, len(row.rstrip("x…")) + 24)


def test_a_terminal_that_knows_ascii_alone_gets_the_rest_written_out(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.bury("größer → 大")
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", file)
    with pytest.raises(SystemExit) as caught:
        main(["dead", "list", run])
    assert caught.value.code == 0 and "gr\\xf6\\xdfer \\u2192 \\u5927" in file.buffer.getvalue().decode("ascii")


def test_a_reader_that_has_seen_enough_is_no_failure(stage: Stage, run: str) -> None:
    made: Any = stage.client.pipeline(transaction=False)
    for index in range(2000):
        made.xadd(f"areal:{{{stage.key}}}:train:dead", {"id": str(index), "cause": "c" * 200})
    made.execute()
    command = f"{sys.executable} -m areal dead list {run} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("entry")


@pytest.mark.parametrize(
    "arguments",
    [["dead"], ["dead", "list"], ["dead", "show", "x"], ["dead", "retry", "x"], ["dead", "drop", "x", "1", "--all"]],
)
def test_wrong_usage_is_exit_code_2(areal: Areal, arguments: list[str]) -> None:
    code, out, err = areal(*arguments)
    assert (code, out) == (2, "") and "usage: areal dead" in err


@pytest.mark.parametrize("action", ["list", "show", "retry", "drop"])
def test_help_teaches_by_examples(areal: Areal, action: str) -> None:
    code, out, _ = areal("dead", action, "--help")
    assert (
        code == 0 and "areal dead retry quickstart --all" in out and "--broker" in out and "AREAL_REDIS_PASSWORD" in out
    )
