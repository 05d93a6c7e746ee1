from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from areal.launch.config import RunConfig
from areal.launch.doctor.finding import Check, Finding, carry_out
from areal.launch.doctor.inputs import look_at_model, look_at_rewards, look_at_rows, look_at_sandbox

from ..test_config import CONFIGS
from .conftest import Configure

CODE = "rewards.functions=[{name: code, kwargs: {walls: '%s'}}]"


def only(look: Callable[[], Iterator[Finding]]) -> Finding:
    (finding,) = carry_out([Check("it", look)])
    return finding


def model(config: RunConfig) -> Finding:
    return only(lambda: look_at_model(config, CONFIGS))


def test_a_model_is_here_or_not(configure: Configure) -> None:
    assert model(configure()).seen == str(CONFIGS / "models" / "sort")
    missing = model(configure("model.path=models/srot"))
    assert missing.level == "problem" and "Did you mean" in missing.seen


def test_a_model_of_the_hub_was_downloaded_or_not(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = configure("model.path=nobody/nothing-of-that-name")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    absent = model(config)
    assert absent.level == "warning" and absent.remedy == "hf download nobody/nothing-of-that-name"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert model(config).level == "problem"
    monkeypatch.setattr("areal.launch.doctor.inputs.in_hub_cache", lambda name: tmp_path)
    assert model(config).level == "ok"


def test_a_model_in_a_package_is_not_converted_for_a_look(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AREAL_CACHE", str(tmp_path))
    found = model(configure(name="smollm2_arithmetic"))
    assert found.level == "ok" and "converted by the first run" in found.seen
    assert not any(tmp_path.iterdir())
    assert model(configure("model.path=package:no-such-model")).level == "problem"


def test_rows_can_be_read_or_not(configure: Configure) -> None:
    assert only(lambda: look_at_rows(configure())).seen == "sort: made on the fly, without end, 256 held out"
    missing = only(lambda: look_at_rows(configure("dataset.source=nowhere.jsonl")))
    assert missing.level == "problem" and "nowhere.jsonl" in missing.seen
    judged = configure("evaluation.judge=nosuch", name="rlcm_digits_compress")
    assert only(lambda: look_at_rows(judged)).level == "problem"


def test_rewards_can_be_loaded_or_not(configure: Configure) -> None:
    assert only(lambda: look_at_rewards(configure())).seen == "sort"
    missing = only(lambda: look_at_rewards(configure("rewards.functions=[{name: srot}]")))
    assert missing.level == "problem" and "there is no reward 'srot'" in missing.seen


def test_a_sandbox_holds_or_is_said_to_be_none(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(look_at_sandbox(configure())) == []
    bare = only(lambda: look_at_sandbox(configure(CODE % "none: run what the model writes on this machine, as me")))
    assert bare.level == "warning"
    odd = only(lambda: look_at_sandbox(configure(CODE % "paper")))
    assert odd.level == "problem" and "kwargs.walls is 'paper'" in odd.seen
    monkeypatch.setattr("areal.rewards.programs.sandbox.sandbox._reason_against", lambda walls: None)
    assert only(lambda: look_at_sandbox(configure(CODE % "any"))).level == "ok"
