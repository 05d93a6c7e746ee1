from pathlib import Path

import pytest

from areal.broker.errors import ConfigError
from areal.launch.config import load_run_config

BASE = """
model: {path: models/sort}
dataset: {source: sort}
rewards: {functions: [{name: sort}]}
learner: {steps: 7, groups_per_step: 3}
algorithm: {objective: {name: ppo, clip_low: 0.1}}
seed: 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def written(folder: Path, text: str, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def test_a_file_says_only_what_differs_from_its_base(folder: Path) -> None:
    path = written(
        folder, "base: base.yaml\nlearner: {steps: 9}\nrewards: {functions: [{name: count}]}\nseed: ${learner.steps}\n"
    )
    config = load_run_config(path, ["learner.groups_per_step=4"])
    assert (config.run, config.seed) == ("mine", 9)
    assert (config.learner.steps, config.learner.groups_per_step) == (9, 4)
    assert [reward.name for reward in config.rewards.functions] == ["count"]
    assert config.algorithm.objective.model_dump()["clip_low"] == 0.1


def test_a_part_that_is_named_anew_does_not_keep_what_is_of_no_use_to_it(folder: Path) -> None:
    path = written(folder, "base: base.yaml\nalgorithm: {objective: {name: sapo}}\n")
    assert load_run_config(path).algorithm.objective.name == "sapo"


def test_bases_may_have_bases_but_no_end_is_no_base(folder: Path) -> None:
    written(folder, "base: base.yaml\nlearner: {steps: 8}\n", "middle")
    assert load_run_config(written(folder, "base: middle.yaml\nseed: 1\n")).learner.steps == 8
    with pytest.raises(ConfigError, match="based on each other"):
        load_run_config(written(folder, "base: round.yaml\n", "round"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: bse.yaml\n", r"there is no configuration .*bse\.yaml; did you mean .*base\.yaml\?"),
        ("base: [1]\n", r"mine\.yaml: base is \[1\]"),
        ("base: list.yaml\n", r"list\.yaml: a mapping of keys is wanted, not list"),
        ("- 1\n", r"mine\.yaml: a mapping of keys is wanted, not list"),
    ],
)
def test_what_is_wrong_with_a_base_is_said(folder: Path, text: str, says: str) -> None:
    (folder / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=says):
        load_run_config(written(folder, text))


@pytest.mark.parametrize(
    ("text", "overrides", "key"),
    [
        ("base: base.yaml\n", ["rewards.functions.0.name=count"], r"rewards\.functions\.0"),
        ("base: base.yaml\n", ["rewards.functions[0].name=count"], r"rewards\.functions\.0"),
        ("base: base.yaml\nrewards: {functions: {0: {name: count}}}\n", [], r"rewards\.functions\.0"),
    ],
)
def test_an_item_of_a_list_is_not_replaced_alone(folder: Path, text: str, overrides: list[str], key: str) -> None:
    says = rf"mine\.yaml: {key} is an item of a list, and a list is written whole, as in 'rewards\.functions=\[…\]'"
    with pytest.raises(ConfigError, match=says):
        load_run_config(written(folder, text), overrides)
