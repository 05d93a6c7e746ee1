import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from areal.launch.doctor import cluster, examination, redis

from ..conftest import Areal
from ..test_config import CONFIGS, MINIMAL
from .conftest import HEAD

QUICKSTART = str(CONFIGS / "quickstart.yaml")


def test_a_machine_that_runs_the_quickstart_is_well(areal: Areal, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    code, out, err = areal("doctor", QUICKSTART)
    assert (code, err) == (0, ""), out
    for check in (
        "python",
        "packages",
        "engine",
        "gpus",
        "disk",
        "model",
        "rows",
        "rewards",
        "kv cache",
        "memory",
        "redis",
    ):
        assert f" {check} " in out, check
    assert list(here.iterdir()) == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before


def test_without_a_configuration_the_machine_alone_is_looked_at(areal: Areal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    code, out, _ = areal("doctor", "--json")
    checks = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {"redis", "disk"} <= {check["check"] for check in checks}
    assert "model" not in {check["check"] for check in checks}
    assert {check["level"] for check in checks} <= {"ok", "warning"}


def test_problems_are_exit_code_1_each_with_its_remedy(
    areal: Areal, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "ANSWER_S", 0.2)
    (here / "mine.yaml").write_text(MINIMAL + "broker: {url: 'redis://:hidden@127.0.0.1:1/0'}\n")
    code, out, err = areal(
        "doctor", "mine.yaml", "rollout.engine.kv_cache_mib=16", "dataset.source=nowhere.jsonl", "--json"
    )
    found = {check["check"]: check for check in map(json.loads, out.splitlines())}
    assert (code, err) == (1, "")
    assert [name for name, check in found.items() if check["level"] == "problem"] == ["rows", "redis"]
    assert "did not answer PING" in found["redis"]["seen"] and "hidden" not in out
    code, out, _ = areal("doctor", "mine.yaml")
    assert code == 1 and "\n1 problem, " in out and "Traceback" not in out


def test_a_cluster_that_a_run_would_be_refused_on_is_exit_code_1(
    areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "survey", lambda *arguments, **options: [HEAD])
    on_it = ("doctor", QUICKSTART, "cluster.address=auto", f"broker.url={redis_url}", "--json")
    for wish, level in (((), "ok"), (("cluster.resources.learner.custom={slow: 1}",), "problem")):
        code, out, _ = areal(*on_it, *wish)
        found = {check["check"]: check for check in map(json.loads, out.splitlines())}
        assert found["placement"]["level"] == level and code == int(level == "problem")
        assert {"parameters", "kv cache", "memory", "shared directory"} <= found.keys()


def test_of_a_model_that_is_not_here_a_cluster_cannot_be_told_whether_it_fits(
    areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "survey", lambda *arguments, **options: [HEAD])
    monkeypatch.setattr(examination, "size_of", lambda path: None)
    _, out, _ = areal("doctor", QUICKSTART, "cluster.address=auto", f"broker.url={redis_url}", "--json")
    found = [check for check in map(json.loads, out.splitlines()) if check["check"] == "memory"]
    assert [check["level"] for check in found] == ["warning"] and "cannot be told" in found[0]["seen"]


@pytest.mark.parametrize("arguments", [["nowhere.yaml"], [QUICKSTART, "learner.stpes=3"], ["--fast"]])
def test_a_bad_configuration_is_exit_code_2(areal: Areal, arguments: list[str]) -> None:
    code, out, err = areal("doctor", *arguments)
    assert code == 2 and out == "" and err


def test_a_reward_that_prints_does_not_spoil_the_json(areal: Areal, here: Path) -> None:
    (here / "mine.py").write_text("print('loaded')\ndef f(completion): return 1.0\n")
    (here / "mine.yaml").write_text(f"base: {QUICKSTART}\nrewards: {{functions: [{{name: ./mine.py:f}}]}}\n")
    code, out, err = areal("doctor", "mine.yaml", "--json")
    assert all(json.loads(line) for line in out.splitlines()) and "loaded" in err and code == 0


def test_a_look_at_the_quickstart_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom areal.launch.cli import main\n"
        f"try: main(['doctor', {QUICKSTART!r}, 'directory=/tmp/areal-doctor-nowhere'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
