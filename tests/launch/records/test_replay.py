import json
from pathlib import Path

import pytest

from areal.launch.records.rundir import read_metrics

from ...learner.lessons import record_run
from ..conftest import Areal

STEPS = 8


@pytest.fixture
def recorded(here: Path) -> Path:
    """The run of runs/recorded, which has recorded all its steps."""
    (here / "runs").mkdir()
    return record_run(here / "runs" / "recorded", STEPS)


def keep_as_the_runs(recorded: Path, replay: Path) -> None:
    (recorded / "metrics.jsonl").write_bytes((replay / "metrics.jsonl").read_bytes())


def test_a_replay_is_compared_with_its_run(recorded: Path, areal: Areal) -> None:
    code, out, _ = areal("replay", "recorded")
    assert code == 0 and "the run has no metrics of these steps" in out and "runs/recorded/replay-1/" in out
    assert [line.split("  ")[0] for line in out.splitlines()[:STEPS]] == [f"step {i}/{STEPS}" for i in range(1, 9)]
    first = recorded / "replay-1"
    assert (first / "model" / "config.json").is_file()
    assert [record["step"] for record in read_metrics(first / "metrics.jsonl")] == list(range(1, 9))
    keep_as_the_runs(recorded, first)
    code, out, _ = areal("replay", "recorded", "--output", "again")
    assert code == 0 and "8 steps: these metrics are identical" in out
    code, out, _ = areal(
        "replay", "recorded", "--steps", "4", "algorithm.objective.name=cispo", "algorithm.aggregate=sequence"
    )
    assert code == 0 and "4 steps: these metrics differ from step 1 on" in out and "replay-2" in out
    assert any(line.startswith("loss") and "at most" in line for line in out.splitlines())


def test_the_same_command_goes_on_where_it_stopped(recorded: Path, areal: Areal) -> None:
    assert areal("replay", "recorded", "--steps", "3")[0] == 0
    code, out, _ = areal("replay", "recorded")
    assert code == 0 and out.startswith("goes on after step 3\nstep 4/8")
    code, out, _ = areal("replay", "recorded")
    assert code == 0 and out.startswith("goes on after step 8\n") and "step 8/8" not in out
    assert [record["step"] for record in read_metrics(recorded / "replay-1" / "metrics.jsonl")] == list(range(1, 9))
    assert sorted(path.name for path in recorded.glob("replay-*")) == ["replay-1"]


def test_what_has_come_farther_is_not_taken_for_fewer_steps(recorded: Path, areal: Areal) -> None:
    assert areal("replay", "recorded", "--steps", "5")[0] == 0
    folder = recorded / "replay-1"
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".jsonl", ".safetensors")]
    before = [path.read_bytes() for path in kept]
    code, _, err = areal("replay", "recorded", "--steps", "4")
    assert code == 2 and "runs/recorded/replay-1 is this replay and has come to step 5, beyond step 4" in err
    assert "--output" in err and [path.read_bytes() for path in kept] == before
    code, out, _ = areal("replay", "recorded", "--steps", "4", "--output", "four")
    assert code == 0 and "step 4/4" in out


def test_a_folder_of_something_else_is_left_alone(recorded: Path, areal: Areal, here: Path) -> None:
    (here / "mine" / "model").mkdir(parents=True)
    (here / "mine" / "model" / "config.json").write_text("mine")
    code, _, err = areal("replay", "recorded", "--steps", "1", "--output", "mine")
    assert code == 2 and "mine is of another run or replay, or of neither: name another folder with --output" in err
    assert [str(path.relative_to(here)) for path in (here / "mine").rglob("[!.]*")] == [
        "mine/model",
        "mine/model/config.json",
    ]


def test_it_begins_at_a_checkpoint_of_the_run(recorded: Path, areal: Areal) -> None:
    assert areal("replay", "recorded", "checkpoint.keep=9")[0] == 0
    keep_as_the_runs(recorded, recorded / "replay-1")
    (recorded / "replay-1" / "checkpoints").rename(recorded / "checkpoints")
    code, out, _ = areal("replay", "recorded", "--from", "3")
    assert code == 0 and out.startswith("step 4/8") and "5 steps: these metrics are identical" in out
    code, _, err = areal("replay", "recorded", "--from", "4")
    assert code == 1 and "there is no checkpoint of step 4" in err and "those there: 3, 6, 8" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recorded", "--steps", "9"], "has no recording of step 9; its first is of step 1, its last of step 8"),
        (["recorded", "--from", "8"], "has no recording of step 9; its first is of step 1, its last of step 8"),
        (["recorded", "--steps", f"{10**12}"], "has no recording of step 9"),
        (["recorded", "learner.stpes=3"], "did you mean learner.steps?"),
        (["recorded", "--fast"], "unrecognized arguments: --fast"),
        (["recorded", "--from", "x"], "argument --from: a whole number of 0 or more is wanted, not 'x'"),
        (["recorded", "--from", "-1"], "argument --from: a whole number of 0 or more is wanted, not '-1'"),
        (["recorded", "--steps", "0"], "argument --steps: a whole number of 1 or more is wanted, not '0'"),
        (["recorded", "--output", "runs/recorded"], "is of another run or replay, or of neither: name another folder"),
    ],
)
def test_what_cannot_be_replayed_is_exit_code_2(recorded: Path, areal: Areal, arguments: list[str], says: str) -> None:
    code, _, err = areal("replay", *arguments)
    assert code == 2 and says in err
    assert not list(recorded.glob("replay-*"))


def test_a_run_that_has_recorded_nothing_says_how_to(recorded: Path, areal: Areal) -> None:
    for path in (recorded / "groups").iterdir():
        path.unlink()
    code, _, err = areal("replay", "recorded")
    assert code == 2 and "run it with learner.record=true" in err


def test_a_model_that_the_recording_does_not_fit_is_refused(recorded: Path, areal: Areal) -> None:
    config = json.loads((recorded / "start" / "config.json").read_text())
    assert areal("replay", "recorded", "--steps", "1")[0] == 0
    made = recorded / "smaller"
    (recorded / "start").rename(made)
    save_smaller(made, vocab_size=config["vocab_size"] - 8)
    code, _, err = areal("replay", "recorded", f"model.path={made}")
    assert code == 1 and "the recording does not fit the model: prompt" in err


def save_smaller(folder: Path, *, vocab_size: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(folder, vocab_size=vocab_size)
    LlamaForCausalLM(config).save_pretrained(folder)


def test_a_run_that_there_is_not_is_named(areal: Areal) -> None:
    code, _, err = areal("replay", "nobody")
    assert code == 1 and "there is no run 'nobody'" in err
