from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from areal.broker.errors import ConfigError
from areal.broker.trajectory import DenoisingTrajectory, Group, TokenTrajectory
from areal.denoising.config import DenoisingConfig
from areal.learner.batch import Batch
from areal.learner.config import ModelConfig
from areal.learner.denoising_policy import DenoisingPolicy
from areal.learner.minibatch import microbatches
from areal.learner.steps import StepBatch

from .images import LORA, STEPS, flat, group, made, moved, save_tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


def behaviour(made_by: Group[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([t.behaviour_logprobs for t in made_by.trajectories]))


def normals(policy: DenoisingPolicy, batch: StepBatch) -> Normal:
    """What each step draws from, one by one."""
    model, means, stds = policy._model, [], []
    for place, condition in enumerate(batch.conditions):
        scale, std = model.schedule.target(batch.targets[place : place + 1])
        clean = model.denoise([condition])(batch.latents[place : place + 1], batch.levels[place : place + 1])
        means.append(scale * clean[0])
        stds.append(std.expand_as(clean[0]))
    return Normal(torch.stack(means), torch.stack(stds))


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_at_no_lag_its_densities_are_those_of_the_sampler(folder: Path, wire: str) -> None:
    policy = moved(made(folder, wire=wire))
    answered = group(policy, wire=wire, size=8)
    scores = policy.scores(flat(answered))
    apart_S = (scores.logprobs_A.detach() - behaviour(answered)).reshape(8, 3).sum(1).abs()
    assert apart_S.max() <= 1e-3
    assert scores.closed is not None
    assert scores.closed.behaviour_kl_A.max() < (1e-9 if wire == "float32" else 1e-4)


def test_its_densities_are_sums_of_normals(folder: Path) -> None:
    policy, other = moved(made(folder)), moved(made(folder), seed=6)
    batch = flat(group(other))
    found = policy.scores(batch)
    wanted = normals(policy, batch)
    torch.testing.assert_close(
        found.logprobs_A, wanted.log_prob(batch.drawn).flatten(1).double().sum(1).float(), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(found.entropies_A, wanted.entropy().flatten(1).sum(1))


def test_divergences_from_behaviour_and_reference_are_those_of_normals(folder: Path) -> None:
    """The behaviour's mean is known from the noise, which its seed draws again."""
    policy, other = moved(made(folder, with_reference=True)), moved(made(folder), seed=6)
    batch = flat(group(other))
    closed = policy.scores(batch).closed
    assert closed is not None and closed.reference_kl_A is not None
    own = normals(policy, batch)
    torch.testing.assert_close(
        closed.behaviour_kl_A, kl_divergence(normals(other, batch), own).flatten(1).sum(1), rtol=1e-4, atol=1e-5
    )
    with policy.adapter_off():
        reference = normals(policy, batch)
    torch.testing.assert_close(closed.reference_kl_A, kl_divergence(own, reference).flatten(1).sum(1))
    assert not closed.behaviour_kl_A.requires_grad and closed.reference_kl_A.requires_grad


def test_weights_are_one_on_average_and_their_squares_e_to_the_2k(folder: Path) -> None:
    """Of images that another policy made, log w ~ N(−K, 2K)."""
    policy, other = moved(made(folder), by=0.02), moved(made(folder), by=0.02, seed=6)
    answered = group(other, size=2000)
    scores = policy.scores(flat(answered))
    log_w = (scores.logprobs_A.detach() - behaviour(answered)).reshape(-1, 3)[:, 0]
    assert scores.closed is not None
    spent = scores.closed.behaviour_kl_A.reshape(-1, 3)[:, 0]
    assert 0.01 < spent.mean() < 0.5
    assert log_w.mean().item() == pytest.approx(-spent.mean().item(), abs=4 * (2 * spent.mean() / 2000).sqrt().item())
    assert log_w.var().item() == pytest.approx(2 * spent.mean().item(), rel=0.15)


def test_clip_ranges_grow_with_the_signal_and_means_divide_by_the_dimensions(folder: Path) -> None:
    policy = made(folder)
    batch = flat(group(policy, size=1))
    scale, std = policy._model.schedule.target(batch.targets)
    scored = policy.scores(batch)
    assert scored.closed is not None
    torch.testing.assert_close(scored.closed.clip_scale_A, scale / std)
    assert (scored.closed.clip_scale_A.diff() > 0).all()
    rlcm = made(folder, clip_scale="none", density="mean").scores(batch)
    assert rlcm.closed is not None and rlcm.closed.clip_scale_A.tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(rlcm.logprobs_A, scored.logprobs_A / 64)
    means = Batch.of([group(policy, size=1)], DenoisingConfig(density="mean")).behaviour_logprobs_A
    torch.testing.assert_close(means, behaviour(group(policy, size=1)) / 64)


def test_steps_drawn_for_training_are_laid_flat_with_their_own_noise(folder: Path) -> None:
    policy = moved(made(folder))
    answered = group(policy, size=6)
    batch = Batch.of([answered], DenoisingConfig(trained_actions=2), step=3)
    assert batch.lengths_S.tolist() == [2] * 6
    assert len({tuple(batch.positions_of(place)) for place in range(6)}) > 1
    again = Batch.of([answered], DenoisingConfig(trained_actions=2), step=3)
    assert torch.equal(batch.positions_A, again.positions_A)
    assert not torch.equal(
        batch.positions_A, Batch.of([answered], DenoisingConfig(trained_actions=2), step=4).positions_A
    )
    others = [Batch.of([answered], DenoisingConfig(trained_actions=2), step=3, seed=seed) for seed in (1, -1)]
    assert not any(torch.equal(batch.positions_A, other.positions_A) for other in others)
    found = torch.zeros(batch.num_actions)
    for micro in microbatches(batch, range(6), 5):
        assert micro.padding == 0 and micro.size in (2, 4)
        scores = policy.scores(micro.packed)
        assert scores.closed is not None and scores.closed.behaviour_kl_A.max() < 1e-9
        found[micro.index_M] = scores.logprobs_A.detach()
    torch.testing.assert_close(found, batch.behaviour_logprobs_A, rtol=0, atol=1e-4)


def test_only_the_adapter_is_trained_and_off_it_is_the_model(folder: Path) -> None:
    policy, fresh = moved(made(folder)), made(folder)
    batch = flat(group(fresh))
    names = {name for name, parameter in policy._model.network.named_parameters() if parameter.requires_grad}
    assert names and all(".rl." in name for name in names)
    with policy.adapter_off():
        assert torch.equal(policy.logprobs(batch), fresh.logprobs(batch))
    assert not torch.equal(policy.logprobs(batch), fresh.logprobs(batch))
    policy.logprobs(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"latents": np.zeros((4, 1, 4, 4), np.float32)},
            r"latents of \[1, 4, 4\], and those of the model are \[1, 8, 8\]",
        ),
        (
            {"timesteps": np.array([999, 5, 3, 2], np.int32)},
            r"made at the levels \[999, 5, 3, 2\], and denoising.steps of 4",
        ),
        ({"guidance": 8.0}, "made under guidance 8, not 1"),
        ({"condition": {"label": 10}}, "the label 10, and the model knows the classes 0 to 9"),
    ],
)
def test_images_that_it_cannot_have_made_are_named(folder: Path, change: dict[str, Any], said: str) -> None:
    policy = made(folder)
    answered = group(policy, prompt_id=7, size=2)
    assert policy.unfit(answered) is None
    wrong: DenoisingTrajectory = replace(answered.trajectories[1], **change)
    cause = policy.unfit(Group(7, (answered.trajectories[0], wrong)))
    assert cause is not None and cause.startswith("prompt 7: ")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(cause)


def test_texts_are_not_for_an_image_policy(folder: Path) -> None:
    text = TokenTrajectory(np.array([1, 2], np.int32), np.array([-1, 0], np.int32), np.zeros(2, np.float32), 0.0)
    assert made(folder).unfit(Group(3, (text,))) == "prompt 3: answered with tokens, and this policy learns from images"


def test_a_network_that_cannot_make_its_activations_anew_is_not_asked_to(folder: Path) -> None:
    model = ModelConfig(path=str(folder), lora=LORA, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match=r"model\.gradient_checkpointing is true, and a ConsistencyMlp cannot"):
        DenoisingPolicy(model, DenoisingConfig(steps=STEPS))


def test_without_an_adapter_there_is_nothing_to_train(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora is missing"):
        DenoisingPolicy(ModelConfig(path=str(folder)), DenoisingConfig())
