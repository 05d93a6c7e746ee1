"""The run directory: what is in it, who may open it, and what a crash leaves."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from areal.broker.errors import ArealError
from areal.launch.records.rundir import RunDirectory, read_metrics, read_summary

STEP = {"kind": "step", "time": 5.0, "step": 1, "epoch": 1, "reward_mean": 0.5, "reward_parts": {"exact": 0.25}}
EVAL = {"kind": "eval", "time": 6.0, "step": 1, "accuracy": 0.75}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_new_directory(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "runs" / "first", config="seed: 1\n") as directory:
        assert not directory.resumed and directory.earlier == [] and directory.invocations == []
        assert (directory.path / "config.yaml").read_text() == "seed: 1\n"
        assert directory.checkpoints.is_dir() and directory.logs.is_dir() and directory.tensorboard.is_dir()


def test_kept_records_are_on_disk_at_once_and_others_are_not_kept(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config="") as directory:
        for record in (STEP, {"kind": "event", "time": 1.0, "text": "hello"}, {"kind": "worker", "time": 1.0}, EVAL):
            directory.write(record)
        assert read_metrics(tmp_path / "metrics.jsonl") == [STEP, EVAL]


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config="") as directory:
        directory.write({"kind": "final", "time": 1.0, "worst": [float("inf"), {"loss": float("nan")}]})
        directory.write_summary({"x": float("nan")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["worst"] == [None, {"loss": None}]
    assert read_summary(tmp_path / "summary.json") == {"x": None}


def test_opening_again_reads_what_is_there(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config="seed: 1\n") as directory:
        directory.write(STEP)
        directory.write_summary({"steps": 1, "invocations": [{"wall_s": 3.0}]})
    with RunDirectory(tmp_path, config="seed: 2\n") as directory:
        assert directory.resumed and directory.earlier == [STEP] and directory.invocations == [{"wall_s": 3.0}]
        directory.write(EVAL)
    assert read_metrics(tmp_path / "metrics.jsonl") == [STEP, EVAL]
    assert (tmp_path / "config.yaml").read_text() == "seed: 2\n"


def test_a_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps(STEP) + "\n" + json.dumps(EVAL)[:20])
    assert read_metrics(metrics) == [STEP]
    with RunDirectory(tmp_path, config="") as directory:
        assert directory.earlier == [STEP]
        directory.write(EVAL)
    assert read_metrics(metrics) == [STEP, EVAL]


def test_a_line_that_is_no_record_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps(STEP) + "\nnonsense\n[1]\n" + json.dumps(EVAL) + "\n")
    with caplog.at_level(logging.WARNING):
        assert read_metrics(metrics) == [STEP, EVAL]
    assert "line 2" in caplog.text and "line 3" in caplog.text


def test_a_summary_is_replaced_whole(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config="") as directory:
        directory.write_summary({"steps": 1})
        directory.write_summary({"steps": 2})
    assert read_summary(tmp_path / "summary.json") == {"steps": 2}
    assert not list(tmp_path.glob("*.tmp"))


def test_a_summary_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ArealError, match=r"summary\.json is not valid JSON"):
        RunDirectory(tmp_path, config="")
    (tmp_path / "summary.json").unlink()
    RunDirectory(tmp_path, config="").close()  # the refusal let go of the lock


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config="seed: 1\n"):
        with pytest.raises(ArealError, match=r"is in use by process \d+ on .*: wait for that run to end"):
            RunDirectory(tmp_path, config="seed: 2\n")
        assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"
    RunDirectory(tmp_path, config="").close()


def test_a_directory_keeps_its_key_and_shares_it_with_no_other_of_its_name(tmp_path: Path) -> None:
    keys = []
    for parent in ("here", "there", "here"):
        with RunDirectory(tmp_path / parent / "sort", config="") as directory:
            keys.append(directory.key)
    assert keys[0] == keys[2] != keys[1]
    assert all(re.fullmatch(r"sort-[0-9a-f]{12}", key) for key in keys)
    assert (tmp_path / "here" / "sort" / ".id").read_text() == keys[0].removeprefix("sort-")


def test_the_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from areal.launch.records.rundir import RunDirectory; "
    code += "d = RunDirectory(pathlib.Path(sys.argv[1]), config=''); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -9
    RunDirectory(tmp_path, config="").close()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ArealError, match="cannot be made"):
        RunDirectory(tmp_path / "runs" / "first", config="")


def test_tensorboard_shows_scalars_and_drops_the_dead_lineage(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config="") as directory:
        for number in (1, 2, 3):
            directory.write({**STEP, "step": number})
        directory.write(EVAL)
        directory.write({**STEP, "step": 2, "epoch": 2, "reward_mean": 0.75})
    drawn = scalars(tmp_path / "tensorboard")
    assert drawn["learner/reward_mean"] == [(1, 0.5), (2, 0.75)]
    assert drawn["reward/exact"] == [(1, 0.25), (2, 0.25)] and drawn["eval/accuracy"] == [(1, 0.75)]


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, areal.launch.records.rundir, areal.launch.driver.progress, areal.launch.records.chart; "
    code += "print([m for m in ('torch', 'ray', 'matplotlib', 'tensorboard', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout == "[]\n"
