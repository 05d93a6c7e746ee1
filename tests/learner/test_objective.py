import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from areal.learner.config import ObjectiveConfig
from areal.learner.objective import Objective, decoupled_ppo

CLIP = {"clip_low": 0.2, "clip_high": 0.3, "max_behaviour_weight": 2.0}
CONFIG = ObjectiveConfig(**CLIP)


def one(theta: float, prox: float, behaviour: float, advantage: float, **options: float) -> tuple[Objective, float]:
    """The objective of a single action, given its probabilities, and dL/dlog π_θ."""
    logprob = torch.tensor([math.log(theta)], requires_grad=True)
    objective = decoupled_ppo(
        logprob,
        torch.tensor([math.log(prox)]),
        behaviour_logprobs_A=torch.tensor([math.log(behaviour)]),
        advantages_A=torch.tensor([advantage]),
        keep_A=torch.tensor([True]),
        denominator=1.0,
        config=ObjectiveConfig(**(CLIP | options)),
    )
    objective.loss.backward()
    assert logprob.grad is not None
    return objective, logprob.grad.item()


def counts(objective: Objective) -> tuple[float, float, float]:
    return objective.num_kept.item(), objective.num_clipped.item(), objective.num_capped.item()


# loss = −min(w, 2)·min(u·A, clip(u, 0.8, 1.3)·A); its gradient is −min(w, 2)·u·A unless the clip bites
@pytest.mark.parametrize(
    ("theta", "prox", "behaviour", "advantage", "loss", "gradient", "clipped", "capped"),
    [
        pytest.param(0.5, 0.5, 0.5, 3.0, -3.0, -3.0, 0, 0, id="on policy"),
        pytest.param(0.6, 0.5, 0.5, 2.0, -2.4, -2.4, 0, 0, id="inside the clip"),
        pytest.param(0.8, 0.5, 0.5, 2.0, -2.6, 0.0, 1, 0, id="clipped above"),
        pytest.param(0.8, 0.5, 0.5, -2.0, 3.2, 3.2, 0, 0, id="above, but the advantage pulls back"),
        pytest.param(0.2, 0.5, 0.5, -2.0, 1.6, 0.0, 1, 0, id="clipped below"),
        pytest.param(0.2, 0.5, 0.5, 2.0, -0.8, -0.8, 0, 0, id="below, but the advantage pulls back"),
        pytest.param(0.5, 0.5, 0.4, 2.0, -2.5, -2.5, 0, 0, id="weighted"),
        pytest.param(0.6, 0.5, 0.1, 2.0, -4.8, -4.8, 0, 1, id="weight capped at 2"),
        pytest.param(0.2, 0.5, 0.1, -2.0, 3.2, 0.0, 1, 1, id="capped and clipped"),
        pytest.param(0.6, 0.2, 0.8, 0.0, 0.0, 0.0, 0, 0, id="no advantage"),
    ],
)
def test_pinned_by_hand(
    theta: float,
    prox: float,
    behaviour: float,
    advantage: float,
    loss: float,
    gradient: float,
    clipped: int,
    capped: int,
) -> None:
    objective, found = one(theta, prox, behaviour, advantage)
    assert objective.loss.item() == pytest.approx(loss, rel=1e-5)
    assert found == pytest.approx(gradient, rel=1e-5)
    assert counts(objective) == (1, clipped, capped)


def test_statistics_pinned_by_hand() -> None:
    objective, _ = one(theta=0.6, prox=0.5, behaviour=0.2, advantage=1.0)
    assert objective.behaviour_weight.item() == pytest.approx(2.5)
    assert objective.behaviour_weight_squared.item() == pytest.approx(6.25)
    assert objective.behaviour_logratio.item() == pytest.approx(math.log(2.5))
    assert objective.kl_behaviour_prox.item() == pytest.approx(2.5 - 1 - math.log(2.5))
    assert objective.kl_prox_theta.item() == pytest.approx(1.2 - 1 - math.log(1.2), rel=1e-5)


def batch(size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """theta, prox, behaviour, advantages, keep; ratios far on both sides of the clips and of the cap."""
    generator = torch.Generator().manual_seed(seed)
    theta, prox, behaviour = (-0.5 - torch.rand(size, generator=generator) for _ in range(3))
    advantages = torch.randn(size, generator=generator)
    return theta.requires_grad_(), prox, behaviour, advantages, torch.rand(size, generator=generator) < 0.8


def run(rows: Tensor | slice, denominator: float) -> tuple[Objective, Tensor]:
    theta, prox, behaviour, advantages, keep = batch()
    objective = decoupled_ppo(
        theta[rows],
        prox[rows],
        behaviour_logprobs_A=behaviour[rows],
        advantages_A=advantages[rows],
        keep_A=keep[rows],
        denominator=denominator,
        config=ObjectiveConfig(clip_low=0.1, clip_high=0.2, max_behaviour_weight=1.3),
    )
    objective.loss.backward()
    assert theta.grad is not None
    return objective, theta.grad


def test_equals_a_loop_written_from_the_paper() -> None:
    theta, prox, behaviour, advantages, keep = (tensor.tolist() for tensor in batch())
    kept = [i for i in range(len(keep)) if keep[i]]
    total, gradient, clipped, capped = 0.0, [0.0] * len(keep), 0, 0
    for i in kept:
        weight = math.exp(prox[i]) / math.exp(behaviour[i])
        ratio = math.exp(theta[i]) / math.exp(prox[i])
        free, bounded = ratio * advantages[i], min(max(ratio, 0.9), 1.2) * advantages[i]
        total -= min(weight, 1.3) * min(free, bounded) / len(kept)
        clipped += bounded < free
        capped += weight > 1.3
        if free <= bounded:
            gradient[i] = -min(weight, 1.3) * free / len(kept)
    objective, found = run(slice(None), len(kept))
    assert objective.loss.item() == pytest.approx(total, rel=1e-5)
    assert found.tolist() == pytest.approx(gradient, rel=1e-4, abs=1e-7)
    assert counts(objective) == (len(kept), clipped, capped)
    assert 0 < clipped < len(kept) and 0 < capped < len(kept)


@pytest.mark.parametrize("parts", [2, 3, 7, 40])
def test_microbatches_add_up_to_their_batch(parts: int) -> None:
    denominator = float(batch()[4].sum())
    whole, whole_gradient = run(slice(None), denominator)
    pieces = [run(rows, denominator) for rows in torch.randperm(40).chunk(parts)]
    torch.testing.assert_close(sum(gradient for _, gradient in pieces), whole_gradient)
    for field in fields(Objective):
        total = sum(getattr(objective, field.name).detach() for objective, _ in pieces)
        torch.testing.assert_close(total, getattr(whole, field.name).detach(), rtol=1e-4, atol=1e-6)


def test_only_the_loss_carries_a_gradient() -> None:
    objective, _ = one(0.5, 0.4, 0.3, 1.0)
    assert [field.name for field in fields(objective) if getattr(objective, field.name).requires_grad] == ["loss"]


def test_with_the_proximal_policy_detached_it_is_the_weighted_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    decoupled_ppo(
        logprobs,
        logprobs,  # not detached: it must be cut inside
        behaviour_logprobs_A=torch.tensor([-1.0, -2.0 - math.log(1.5)]),
        advantages_A=torch.tensor([1.0, -1.0]),
        keep_A=torch.tensor([True, True]),
        denominator=2.0,
        config=CONFIG,
    ).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.75])


@pytest.mark.parametrize("theta", [-200.0, 0.0])
@pytest.mark.parametrize("behaviour", [-200.0, 0.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_huge_ratios_stay_finite(theta: float, behaviour: float, advantage: float) -> None:
    logprobs = torch.tensor([theta], requires_grad=True)
    objective = decoupled_ppo(
        logprobs,
        torch.tensor([-100.0]),
        behaviour_logprobs_A=torch.tensor([behaviour]),
        advantages_A=torch.tensor([advantage]),
        keep_A=torch.tensor([True]),
        denominator=1.0,
        config=CONFIG,
    )
    objective.loss.backward()
    assert all(math.isfinite(getattr(objective, field.name).item()) for field in fields(objective))
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()


def test_a_dropped_action_adds_nothing_even_if_it_is_nan() -> None:
    logprobs = torch.tensor([-1.0, math.nan], requires_grad=True)
    nan = torch.tensor([-1.0, math.nan])
    objective = decoupled_ppo(
        logprobs,
        nan,
        behaviour_logprobs_A=nan,
        advantages_A=torch.tensor([2.0, math.nan]),
        keep_A=torch.tensor([True, False]),
        denominator=1.0,
        config=CONFIG,
    )
    objective.loss.backward()
    assert objective.loss.item() == pytest.approx(-2.0)
    assert (objective.num_kept.item(), objective.behaviour_weight.item()) == (1, 1)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, 0.0])


def test_refuses_what_cannot_be_a_batch() -> None:
    def call(keep: Tensor, denominator: float) -> Objective:
        ones = torch.ones(2)
        return decoupled_ppo(
            ones,
            ones,
            behaviour_logprobs_A=ones,
            advantages_A=ones,
            keep_A=keep,
            denominator=denominator,
            config=CONFIG,
        )

    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        call(torch.ones(3, dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match="not bool"):
        call(torch.ones(2), 1.0)
    for denominator in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="denominator"):
            call(torch.ones(2, dtype=torch.bool), denominator)
