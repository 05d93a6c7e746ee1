"""`areal export`, as a person calls it on a run's directory."""

import os
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from areal.learner.token_policy import TokenPolicy

from ...learner.test_merge import TOKENS, logits
from ..conftest import Areal
from ..trained import LORA, Trained, close


@pytest.fixture
def run(here: Path) -> Trained:
    return Trained(here, 20, 30, 40, 50)


def test_the_newest_checkpoint_is_exported(run: Trained, areal: Areal) -> None:
    code, out, err = areal("export", "mine")
    assert (code, out, err) == (0, "step 50 of mine, model: runs/mine/export-step-50/\n", "")
    folder = run.path / "export-step-50"
    assert (folder / "tokenizer.json").read_text() == "{}" and close(logits(folder), run.at(50))
    assert [path.name for path in run.path.glob("*.partial")] == []


def test_a_step_that_was_archived_is_exported(run: Trained, areal: Areal, here: Path) -> None:
    assert areal("export", "runs/mine", "--step", "20", "--output", "out/twenty")[0] == 0
    assert close(logits(here / "out" / "twenty"), run.at(20)) and not close(run.at(20), run.at(50))


def test_what_cannot_be_exported_is_refused(run: Trained, areal: Areal) -> None:
    code, _, err = areal("export", "mine", "--step", "30")
    assert code == 1 and "no weights of step 30 in runs/mine/checkpoints, but of 20, 40, 50" in err
    assert "checkpoint.archive_every_steps" in err
    code, _, err = areal("export", "nime")
    assert code == 1 and "there is no run 'nime'" in err and "did you mean mine?" in err and "--broker" not in err
    (run.path / "export-step-40").mkdir()
    code, _, err = areal("export", "mine", "--step", "40")
    assert code == 1 and "export-step-40 exists, and nothing is written over" in err and "--output" in err
    code, _, err = areal("export", "mine", "--step", "-1")
    assert code == 2 and "argument --step: a whole number of 0 or more is wanted, not '-1'" in err
    code, _, err = areal("export", "mine", "--merged")
    assert code == 2 and "--merged: mine has trained no adapter (model.lora is null)" in err
    assert not (run.path / "export-step-50").exists()
    code, _, err = areal("export", "mine", "--output", "/proc/no/where")
    assert code == 1 and "/proc/no/where cannot be written" in err


def test_the_best_evaluated_is_exported(run: Trained, areal: Areal, here: Path) -> None:
    code, _, err = areal("export", "mine", "--best")
    assert code == 1 and "no weights are kept in runs/mine/checkpoints/best: set checkpoint.best" in err
    for step, score in ((30, 0.5), (20, 0.75), (40, 0.625)):
        run.judged(step, score, keep=2)
    code, out, err = areal("export", "mine", "--best")
    assert (code, err) == (0, "")
    assert out == "step 20 of mine (the best, 0.7500), model: runs/mine/export-step-20/\n"
    assert close(logits(run.path / "export-step-20"), run.at(20))
    code, _, err = areal("export", "mine", "--best", "--step", "20")
    assert code == 2 and "not allowed with" in err


def test_a_model_that_has_moved_is_named_with_its_file(run: Trained, areal: Areal, here: Path) -> None:
    (here / "start").rename(here / "moved")
    code, _, err = areal("export", "mine")
    assert code == 2 and "runs/mine/config.yaml: model.path: there is no model 'start'" in err


def test_nothing_is_left_of_an_export_that_fails(run: Trained, areal: Areal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(TokenPolicy, "save_pretrained", fails)
    before = sorted(os.listdir(run.path))
    code, _, err = areal("export", "mine")
    assert code == 1 and "the disk is full; name another folder with --output" in err
    assert sorted(os.listdir(run.path)) == before


def test_an_adapter_is_exported_as_peft_has_it_or_merged(here: Path, areal: Areal) -> None:
    run = Trained(here, 20, 30, lora=LORA)
    code, out, err = areal("export", "mine")
    assert (code, err) == (0, "") and out.startswith("step 30 of mine, adapter of /")
    base = AutoModelForCausalLM.from_pretrained(here / "start")
    adapted = peft.PeftModel.from_pretrained(base, run.path / "export-step-30").eval()
    with torch.no_grad():
        assert close(adapted(input_ids=TOKENS).logits, run.at(30))
    assert areal("export", "mine", "--merged", "--step", "20", "--output", "merged")[0] == 0
    assert close(logits(here / "merged"), run.at(20)) and not close(run.at(20), run.at(30))
