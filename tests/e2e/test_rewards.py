"""A reward of a user's own, beside one of a whole group, in processes that Ray has placed."""

import pytest

from .conftest import CONFIGS, ROOT, StartRun

pytestmark = pytest.mark.slow

FUNCTIONS = (
    "[{name: sort}, "
    f"{{name: '{ROOT / 'examples' / 'custom_reward' / 'brevity.py'}:brevity', weight: 0.5}}, "
    "{name: self_consistency, kwargs: {answer: hash}}]"
)


def test_the_example_is_a_reward_of_a_run(start_run: StartRun) -> None:
    run = start_run(
        CONFIGS / "quickstart.yaml",
        "learner.steps=3",
        "evaluation.every_steps=0",
        f"rewards.functions={FUNCTIONS}",
        "rewards.where=ray",
    )
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    for step in run.steps():
        parts = step["reward_parts"]
        assert set(parts) == {"sort", "brevity", "self_consistency"}
        assert -0.1 < parts["brevity"] < 0 and 0 < parts["sort"] < 1 and 0 < parts["self_consistency"] <= 1
        total = parts["sort"] + 0.5 * parts["brevity"] + parts["self_consistency"]
        assert step["reward_mean"] == pytest.approx(total, abs=1e-5)
    assert run.summary["groups_lost"] == run.summary["dead_letters"] == 0
    run.await_silence(20)
