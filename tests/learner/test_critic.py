import numpy as np
import pytest
import torch

from areal.learner.algorithm.config import CriticConfig
from areal.learner.config import ModelConfig
from areal.learner.critic import OwnCritic
from areal.learner.packing import PackedBatch, pack

from .test_trainer import answered_with, save_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(path=str(save_tiny_llama(tmp_path_factory.mktemp("critic"))))


def made(model: ModelConfig, **options: object) -> OwnCritic:
    config = CriticConfig.model_validate({"optimizer": {"lr": 0.01}, "clip": 100.0} | options)
    return OwnCritic(config, model, total_steps=100)


def learn(critic: OwnCritic, old: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
    critic.scale.loss(critic.values(packed()), old, targets, weights)[0].backward()


def packed() -> PackedBatch:
    return pack([answered_with([1, 2, 3, 4], 2), answered_with([5, 6, 7], 1)])


def test_its_layers_make_their_activations_anew_where_the_policys_do(model: ModelConfig) -> None:
    plain, frugal = made(model), made(model.model_copy(update={"gradient_checkpointing": True}))
    passes = [0, 0]
    for place, critic in enumerate((plain, frugal)):
        for module in critic._module.modules():
            if type(module).__name__ == "LlamaMLP":
                module.register_forward_pre_hook(lambda *_, place=place: passes.__setitem__(place, passes[place] + 1))
        torch.nn.init.ones_(critic._module.head.weight)
        critic.values(packed()).sum().backward()
    assert passes == [2, 4]
    for mine, its in zip(plain._module.parameters(), frugal._module.parameters(), strict=True):
        assert mine.grad is not None and its.grad is not None and torch.equal(mine.grad, its.grad)


def test_it_begins_by_saying_nothing(model: ModelConfig) -> None:
    assert made(model).values(packed()).tolist() == [0.0] * 4


def test_it_learns_its_targets_and_is_saved_whole(model: ModelConfig) -> None:
    critic = made(model)
    returns = torch.tensor([3.0, 5.0, -1.0, 1.0])
    weights, old = torch.full((4,), 0.25), torch.zeros(4)
    targets = critic.scale.targets(returns, torch.ones(4, dtype=torch.bool))
    assert targets.tolist() == pytest.approx(((returns - 2) / returns.std(correction=0)).tolist(), abs=1e-5)
    for step in range(100):
        learn(critic, old, targets, weights)
        critic.update(step)
    values = critic.values(packed()).detach()
    np.testing.assert_allclose(critic.scale.in_rewards(values).tolist(), returns.tolist(), atol=0.3)
    other = made(model)
    for name, tensor in other.state().items():
        tensor.copy_(critic.state()[name])
    other.scale.load(critic.scale.state())
    assert torch.equal(other.values(packed()), critic.values(packed()))
    assert torch.equal(other.scale.in_rewards(values), critic.scale.in_rewards(values))
    for each in (critic, other):
        learn(each, old, targets, weights)
        each.update(100)
    assert torch.equal(other.values(packed()), critic.values(packed())), "the moments were saved too"


def test_without_normalisation_values_are_rewards(model: ModelConfig) -> None:
    critic = made(model, normalise=False)
    returns, every = torch.tensor([3.0, 5.0]), torch.ones(2, dtype=torch.bool)
    assert torch.equal(critic.scale.targets(returns, every), returns) and torch.equal(
        critic.scale.in_rewards(returns), returns
    )


def test_returns_of_actions_that_do_not_count_have_no_part_in_the_scale(model: ModelConfig) -> None:
    critic = made(model)
    keep = torch.tensor([True, True, False])
    targets = critic.scale.targets(torch.tensor([3.0, 5.0, 1e6]), keep)
    assert targets[keep].tolist() == pytest.approx([-1.0, 1.0])
