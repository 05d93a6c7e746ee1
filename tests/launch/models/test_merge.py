"""`areal merge`, as a person calls it on a run's directory."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ...learner.test_merge import logits, own_logits
from ..conftest import Areal
from ..trained import LORA, Trained, close


@pytest.fixture
def run(here: Path) -> Trained:
    return Trained(here, 20, 30, 40, 50)


def recipe(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "areal_merge.json").read_text())
    return made


def test_steps_are_averaged(run: Trained, areal: Areal) -> None:
    code, out, err = areal("merge", "mine", "--steps", "20,40,50")
    folder = run.path / "merge-steps-20-50"
    assert (code, err) == (0, "") and out.endswith("merged: runs/mine/merge-steps-20-50/\n")
    mean = {name: sum(run.weights[step][name] for step in (20, 40, 50)) / 3 for name in run.weights[20]}
    run.policy.load_weights(mean)  # type: ignore[arg-type]
    assert close(logits(folder), own_logits(run.policy))
    assert recipe(folder) == {"run": "mine", "steps": [20, 40, 50], "weights": [1 / 3] * 3, "score": None}


def test_weights_may_be_given(run: Trained, areal: Areal, here: Path) -> None:
    assert areal("merge", "mine", "--steps", "20,50", "--weights=-1,3", "--output", "out")[0] == 0
    run.policy.load_weights(
        {name: 1.5 * run.weights[50][name] - 0.5 * run.weights[20][name] for name in run.weights[20]}
    )
    assert close(logits(here / "out"), own_logits(run.policy)) and recipe(here / "out")["weights"] == [-0.5, 1.5]


def test_the_better_evaluated_weighs_more(run: Trained, areal: Areal, here: Path) -> None:
    run.evaluated((0, 0.1), (18, 0.5), (41, 0.6), (60, None))
    code, out, _ = areal("merge", "mine", "--steps", "20,50", "--by", "metric", "--output", "out")
    assert code == 0 and recipe(here / "out")["weights"] == pytest.approx([0.2689414, 0.7310586])
    assert "accuracy 0.5000 at step 18" in out and "accuracy 0.6000 at step 41" in out


def test_adapters_become_a_whole_model(here: Path, areal: Areal) -> None:
    run = Trained(here, 20, 30, 40, lora=LORA)
    assert areal("merge", "mine", "--steps", "20,40", "--output", "out")[0] == 0
    for step in (20, 40):
        assert areal("export", "mine", "--merged", "--step", str(step), "--output", str(step))[0] == 0
    mean, first, second = (
        AutoModelForCausalLM.from_pretrained(here / name).state_dict() for name in ("out", "20", "40")
    )
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6)
    assert len(run.weights[20]) == 2 * 7 * 2


SCORE = """
from safetensors.torch import load_file

seen = []


def norm(folder):
    seen.append(folder)
    return -float((load_file(folder / "model.safetensors")["model.norm.weight"] - {wanted}).square().sum())


def fails(folder):
    raise ValueError("no luck")


def speaks(folder):
    return "good"


def nothing(folder):
    return float("nan")


number = 7
"""


def test_a_search_finds_what_scores_best(run: Trained, areal: Areal, here: Path) -> None:
    """The score is best where the norm's weight is 1.3 times that of step 50 less 0.3 times that of step 20."""
    one, other = (run.weights[step]["model.norm.weight"] for step in (20, 50))
    (here / "score.py").write_text(
        SCORE.replace("{wanted}", f"__import__('torch').tensor({(1.3 * other - 0.3 * one).tolist()})")
    )
    search = ("merge", "mine", "--steps", "20,50", "--by", "search", "--score", "./score.py:norm")
    code, out, err = areal(*search, "--evaluations", "40", "--output", "out")
    assert (code, err) == (0, "") and "evaluation 40 of 40: " in out
    made = recipe(here / "out")
    assert made["weights"] == pytest.approx([-0.3, 1.3], abs=0.02) and -1e-3 < made["score"] <= 0
    (module,) = [
        module for name, module in sys.modules.items() if name.startswith("_areal_") and name.endswith(".score")
    ]
    assert len(set(module.seen)) == 40 and not any(folder.exists() for folder in module.seen)
    assert sorted(path.name for path in (here / "out").iterdir() if path.is_dir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--steps", "20"], 2, "--steps 20: two different steps or more are wanted"),
        (["--steps", "20,20"], 2, "--steps 20,20: two different steps or more are wanted"),
        (["--steps", "20,x"], 2, "whole numbers are wanted, as in 20,40,60, not '20,x'"),
        (["--steps", "20,-50"], 2, "whole numbers are wanted, as in 20,40,60, not '20,-50'"),
        (["--steps", "20,30"], 1, "no weights of step 30 in runs/mine/checkpoints, but of 20, 40, 50"),
        (["--weights", "1,2,3"], 2, "--weights 1,2,3: 2 are wanted, one for each of --steps 20,50"),
        (["--weights", "1,x"], 2, "numbers are wanted"),
        (["--weights", "1,-1"], 2, "--weights 1,-1: their sum is 0, not above 0"),
        (["--weights", "1,nan"], 2, "numbers are wanted, as in 0.2,0.3,0.5, not '1,nan'"),
        (["--weights", "1,inf"], 2, "numbers are wanted, as in 0.2,0.3,0.5, not '1,inf'"),
        (["--weights", "1,2", "--by", "metric"], 2, "not allowed with"),
        (["--by", "metric"], 2, "has no eval records; set evaluation.every_steps"),
        (["--by", "search"], 2, "--by search wants to know what to make high: give --score"),
        (["--score", "./score.py:norm"], 2, "--score is of a search, and there is none: give --by search too"),
        (["--evaluations", "50"], 2, "--evaluations is of a search, and there is none"),
        (["--by", "metric", "--seed", "0"], 2, "--seed is of a search, and there is none"),
        (["--score", "./score.py:norm", "--by", "search", "--seed", "-1"], 2, "--seed: a whole number of 0 or more"),
        (["--score", "./score.py:norm", "--by", "search", "--evaluations", "x"], 2, "a whole number of 1 or more"),
        (["--score", "./score.py:norm", "--by", "search", "--evaluations", "2"], 2, "--evaluations 2: 3 at least"),
        (["--score", "./none.py:norm", "--by", "search"], 2, "there is no file"),
        (["--score", "./score.py:nrom", "--by", "search"], 2, "did you mean 'norm'?"),
        (["--score", "./score.py:number", "--by", "search"], 2, "is a int, not a function"),
        (["--score", "./score.py:fails", "--by", "search"], 1, "fails, evaluation 1: ValueError: no luck"),
        (["--score", "./score.py:speaks", "--by", "search"], 1, "evaluation 1 returned 'good', a str, where a number"),
        (["--score", "./score.py:nothing", "--by", "search", "--evaluations", "3"], 1, "no finite number in 3 eval"),
        (["--score", "./broken.py:f", "--by", "search"], 2, "--score ./broken.py:f: SyntaxError"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    run: Trained, areal: Areal, here: Path, arguments: list[str], code: int, says: str
) -> None:
    (here / "score.py").write_text(SCORE.replace("{wanted}", "0"))
    (here / "broken.py").write_text("def f(:")
    steps = [] if "--steps" in arguments else ["--steps", "20,50"]
    seen, _, err = areal("merge", "mine", *steps, *arguments)
    assert seen == code and says in err
    assert not (run.path / "merge-steps-20-50").exists() and not list(run.path.glob(".*partial"))
