import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from areal.launch.cli import main

from .test_config import IMAGES, MINIMAL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "mine.yaml"
    made.write_text(MINIMAL)
    return made


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_check_prints_the_resolved_configuration(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("check", str(path), "learner.steps=20") == 0
    assert "steps: 20" in capsys.readouterr().out


def test_check_hides_the_password(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("check", str(path), "broker.url=redis://me:secret@host:7000/0") == 0
    said = capsys.readouterr()
    assert "url: redis://***@host:7000/0" in said.out and "secret" not in said.out + said.err


def test_a_cluster_without_a_redis_is_exit_code_2(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("run", str(path), "cluster.address=auto") == 2
    assert "cluster.address needs broker.url" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(completion) return 1\n", "SyntaxError: expected ':' (mine.py, line 1)"),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def g(completion): return 1\n", "has no 'f'"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_exit_code_2_before_anything_starts(
    path: Path, tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "mine.py").write_text(text)
    path.write_text(MINIMAL.replace("name: sort", "name: ./mine.py:f").replace("models/sort", "model"))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert code_of("run", str(path), f"directory={tmp_path / 'runs'}") == 2
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert line.startswith("areal: ") and f"{tmp_path / 'mine.py'}" in line and says in line and said.out == ""
    assert not (tmp_path / "runs").exists()
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before


def test_a_model_that_is_missing_is_exit_code_2(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("run", str(path), "model.path=nosuch") == 2
    assert "model.path: there is no model 'nosuch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["evaluation.judge=nosuch"], "evaluation.judge: 'nosuch' is neither 'digits' nor a folder"),
        (["evaluation.judge={tmp}/one"], "one holds the class 'cats' alone, and a judge tells two or more apart"),
        (["evaluation.judge={tmp}/two"], "a held-out row has the label 2, and"),
        (
            ["evaluation.judge=digits", "dataset.source={tmp}/rows.jsonl"],
            "a held-out row has the label None, and digits",
        ),
    ],
)
def test_a_judge_that_can_judge_nothing_is_exit_code_2_before_anything_starts(
    path: Path, tmp_path: Path, overrides: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(IMAGES)
    (tmp_path / "models" / "digits").mkdir(parents=True)
    (tmp_path / "models" / "digits" / "model_index.json").write_text("{}")
    for folder in ("one/cats", "two/cats", "two/dogs"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            (tmp_path / folder / f"{number}.png").touch()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a cat"}\n' * 9)
    given = [override.format(tmp=tmp_path) for override in (*overrides, "directory={tmp}/runs", "dataset.eval_size=3")]
    assert code_of("run", str(path), *given) == 2
    said = capsys.readouterr().err
    assert "areal: evaluation.judge: " in said and says in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["learner.stpes=20"], ["learner"]])
def test_a_wrong_configuration_is_exit_code_2(
    path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of("check", str(path), *arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("\nareal: ") and "Traceback" not in said.err


@pytest.mark.parametrize("arguments", [[], ["train"], ["check"], ["check", "a.yaml", "--fast"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert code_of(*arguments) == 2


@pytest.mark.parametrize(("command", "wanted"), [("run", "CONFIG"), ("replay", "RUN")])
def test_what_is_asked_for_are_no_overrides(command: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(command) == 2
    assert capsys.readouterr().err.endswith(f"the following arguments are required: {wanted}\n")


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--help") == 0
    said = capsys.readouterr().out
    for word in (
        "run",
        "check",
        "pretrain",
        "export",
        "merge",
        "exit codes: 0 done, 1 failed, 2",
        "130",
        "configs/quickstart.yaml",
    ):
        assert word in said
    assert code_of("--version") == 0


def test_help_stays_light() -> None:
    program = (
        "import sys\nfrom areal.launch.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'diffusers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
