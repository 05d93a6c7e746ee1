import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.algorithm.objective import Actions, ClosedForm, Objective, objective
from areal.learner.config import StalenessConfig

PPO = AlgorithmConfig.model_validate({"objective": {"clip_low": 0.2, "clip_high": 0.3}, "behaviour": {"high": 2.0}})
STALENESS = StalenessConfig()
UNWEIGHTED = ("topr", "truncated_is", "rebel")


def known(behaviour: Tensor, advantages: Tensor, prox: Tensor | None = None, **options: Any) -> Actions:
    """What is known of actions, each a trajectory of its own and of age 0 unless said otherwise."""
    size = len(behaviour)
    defaults = {
        "prox_logprobs_A": prox,
        "behaviour_logprobs_A": behaviour,
        "reference_logprobs_A": None,
        "advantages_A": advantages,
        "keep_A": torch.ones(size, dtype=torch.bool),
        "weight_A": torch.ones(size),
        "age_A": torch.zeros(size, dtype=torch.int64),
        "segment_ids_A": torch.arange(size),
        "num_segments": size,
    }
    return Actions(**defaults | options)


def one(theta: float, prox: float, behaviour: float, advantage: float) -> tuple[Objective, float]:
    """The objective of a single action, given its probabilities, and dL/dlog π_θ."""
    logprob, log_prox, log_behaviour = (torch.tensor([math.log(p)]) for p in (theta, prox, behaviour))
    logprob.requires_grad_()
    found = objective(logprob, known(log_behaviour, torch.tensor([advantage]), log_prox), PPO, STALENESS)
    found.loss.backward()
    assert logprob.grad is not None
    return found, logprob.grad.item()


def counts(found: Objective) -> tuple[float, float, float]:
    return found.num_kept.item(), found.num_clipped.item(), found.num_limited.item()


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
    found, slope = one(theta, prox, behaviour, advantage)
    assert found.loss.item() == pytest.approx(loss, rel=1e-5)
    assert slope == pytest.approx(gradient, rel=1e-5)
    assert counts(found) == (1, clipped, capped)


def test_statistics_pinned_by_hand() -> None:
    found, _ = one(theta=0.6, prox=0.5, behaviour=0.2, advantage=1.0)
    assert found.behaviour_weight.item() == pytest.approx(2.5)
    assert found.behaviour_weight_squared.item() == pytest.approx(6.25)
    assert found.kl_behaviour_prox.item() == pytest.approx(2.5 - 1 - math.log(2.5))
    assert found.kl_prox_theta.item() == pytest.approx(1.2 - 1 - math.log(1.2), rel=1e-5)
    assert found.num_masked.item() == found.kl_reference.item() == 0.0


def batch(size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """theta, prox, behaviour, advantages, keep; ratios far on both sides of the clips and of the cap."""
    generator = torch.Generator().manual_seed(seed)
    theta, prox, behaviour = (-0.5 - torch.rand(size, generator=generator) for _ in range(3))
    advantages = torch.randn(size, generator=generator)
    return theta.requires_grad_(), prox, behaviour, advantages, torch.rand(size, generator=generator) < 0.8


TIGHT = AlgorithmConfig.model_validate({"objective": {"clip_low": 0.1, "clip_high": 0.2}, "behaviour": {"high": 1.3}})


def run(rows: Tensor | slice, denominator: float) -> tuple[Objective, Tensor]:
    theta, prox, behaviour, advantages, keep = batch()
    actions = known(behaviour[rows], advantages[rows], prox[rows], keep_A=keep[rows])
    weighted = replace(actions, weight_A=actions.weight_A / denominator)
    found = objective(theta[rows], weighted, TIGHT, STALENESS)
    found.loss.backward()
    assert theta.grad is not None
    return found, theta.grad


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
    found, slopes = run(slice(None), len(kept))
    assert found.loss.item() == pytest.approx(total, rel=1e-5)
    assert slopes.tolist() == pytest.approx(gradient, rel=1e-4, abs=1e-7)
    assert counts(found) == (len(kept), clipped, capped)
    assert 0 < clipped < len(kept) and 0 < capped < len(kept)


@pytest.mark.parametrize("parts", [2, 3, 7, 40])
def test_microbatches_add_up_to_their_batch(parts: int) -> None:
    denominator = float(batch()[4].sum())
    whole, whole_gradient = run(slice(None), denominator)
    pieces = [run(rows, denominator) for rows in torch.randperm(40).chunk(parts)]
    torch.testing.assert_close(sum(gradient for _, gradient in pieces), whole_gradient)
    for field in fields(Objective):
        total = sum(getattr(found, field.name).detach() for found, _ in pieces)
        torch.testing.assert_close(total, getattr(whole, field.name).detach(), rtol=1e-4, atol=1e-6)


def test_only_the_loss_carries_a_gradient() -> None:
    found, _ = one(0.5, 0.4, 0.3, 1.0)
    assert [field.name for field in fields(found) if getattr(found, field.name).requires_grad] == ["loss"]


def test_without_a_proximal_policy_it_is_the_weighted_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    behaviour = torch.tensor([-1.0, -2.0 - math.log(1.5)])
    actions = known(behaviour, torch.tensor([1.0, -1.0]), weight_A=torch.tensor([0.5, 0.5]))
    objective(logprobs, actions, PPO, STALENESS).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.75])


# With θ = 0.6, prox = 0.5, behaviour = 0.4: u = 1.2, w = 1.25, π_θ/π_behav = 1.5
@pytest.mark.parametrize(
    ("config", "advantage", "loss", "gradient"),
    [
        pytest.param({"objective": {"name": "ppo"}}, 2.0, -1.25 * 2.4, -1.25 * 2.4, id="ppo"),
        pytest.param({"objective": {"clip_high": 0.1}}, 2.0, -1.25 * 2.2, 0.0, id="ppo, clipped"),
        pytest.param({"objective": {"dual_clip": 1.1}}, -2.0, 1.25 * 2.2, 0.0, id="dual clip"),
        pytest.param({"objective": {"name": "gspo", "clip_high": 1.0}}, 2.0, -1.25 * 2.4, -1.25 * 2.4, id="gspo"),
        pytest.param(
            {"objective": {"name": "cispo", "clip_high": 0.1}},
            2.0,
            -1.25 * 1.1 * 2.0 * math.log(0.6),
            -1.25 * 1.1 * 2.0,
            id="cispo",
        ),
        pytest.param(
            {"objective": {"name": "sapo"}},
            2.0,
            -1.25 * 4.0 * 2.0 / (1 + math.exp(-0.2)),
            -1.25 * 4.0 * 2.0 * 1.2 * math.exp(-0.2) / (1 + math.exp(-0.2)) ** 2,
            id="sapo",
        ),
        pytest.param({"objective": {"name": "m2po"}}, 2.0, -1.25 * 2.4, -1.25 * 2.4, id="m2po"),
        pytest.param(
            {"objective": {"name": "topr"}, "behaviour": {"action": "off"}},
            -2.0,
            1.0 * 2.0 * math.log(0.6),
            1.0 * 2.0,
            id="topr, truncated at 1",
        ),
        pytest.param(
            {"objective": {"name": "truncated_is", "cap": 1.4}, "behaviour": {"action": "off"}},
            2.0,
            -1.4 * 2.0 * math.log(0.6),
            -1.4 * 2.0,
            id="truncated_is",
        ),
        pytest.param(
            {"objective": {"name": "reinforce"}}, 2.0, -1.25 * 2.0 * math.log(0.6), -1.25 * 2.0, id="reinforce"
        ),
        pytest.param(
            {"objective": {"name": "reinforce"}, "behaviour": {"action": "off"}},
            2.0,
            -2.0 * math.log(0.6),
            -2.0,
            id="no weight",
        ),
        pytest.param({"behaviour": {"action": "mask", "high": 1.2}}, 2.0, 0.0, 0.0, id="masked"),
        pytest.param({"behaviour": {"high": 1.2}}, 2.0, -1.2 * 2.4, -1.2 * 2.4, id="truncated"),
        pytest.param(
            {"behaviour": {"action": "mask", "level": "geometric", "high": 1.3, "cap": 1.1}},
            2.0,
            -1.1 * 2.4,
            -1.1 * 2.4,
            id="let in by a mask, and capped",
        ),
    ],
)
def test_every_surrogate_by_name(config: dict[str, Any], advantage: float, loss: float, gradient: float) -> None:
    logprob = torch.tensor([math.log(0.6)], requires_grad=True)
    prox, behaviour = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.4)])
    actions = known(behaviour, torch.tensor([advantage]), prox)
    found = objective(logprob, actions, AlgorithmConfig.model_validate(config), STALENESS)
    found.loss.backward()
    assert logprob.grad is not None
    assert (found.loss.item(), logprob.grad.item()) == (
        pytest.approx(loss, rel=1e-5),
        pytest.approx(gradient, rel=1e-5),
    )


def test_old_tokens_are_clipped_tighter() -> None:
    """u = 1.15 is inside 1 + 0.2, and at age 2 outside 1 + 0.2/(1 + 0.5·2)."""
    logprobs = torch.tensor([math.log(0.575)] * 2, requires_grad=True)
    prox = torch.tensor([math.log(0.5)] * 2)
    actions = known(prox, torch.ones(2), prox, age_A=torch.tensor([0, 2]))
    law = StalenessConfig(clip_law="inverse", clip_rate=0.5)
    found = objective(logprobs, actions, AlgorithmConfig(), law)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(-1.15 - 1.1)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.15, 0.0])


def test_age_makes_no_bound_where_there_is_none() -> None:
    """CISPO's clip_low of 1 lets a weight of 0.1 be, however old the token."""
    logprobs = torch.tensor([math.log(0.05)], requires_grad=True)
    prox = torch.tensor([math.log(0.5)])
    config = AlgorithmConfig.model_validate({"objective": {"name": "cispo"}})
    law = StalenessConfig(clip_law="inverse", clip_rate=1.0)
    objective(logprobs, known(prox, torch.ones(1), prox, age_A=torch.tensor([4])), config, law).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-0.1)


def test_a_trajectory_beyond_its_kl_budget_is_left_out() -> None:
    """k3 of w = 1.5 is 0.0945, of w = 1.1 it is 0.0047."""
    logprobs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    behaviour = torch.tensor([-1.0 - math.log(1.5), -1.0 - math.log(1.1), -1.0 - math.log(1.1)])
    actions = known(behaviour, torch.ones(3), segment_ids_A=torch.tensor([0, 1, 1]), num_segments=2)
    found = objective(logprobs, actions, AlgorithmConfig(), StalenessConfig(kl_budget=0.02))
    found.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -1.1, -1.1])
    assert (found.num_kept.item(), found.num_masked.item()) == (3, 1)


def test_a_kl_term_pulls_towards_the_reference() -> None:
    """k2 = (log π_θ − log π_ref)²/2 has the gradient log π_θ − log π_ref."""
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    reference = torch.tensor([-1.5, -0.6])
    config = AlgorithmConfig.model_validate({"kl": {"coefficient": 0.1, "estimator": "k2"}})
    actions = known(
        logprobs.detach(), torch.zeros(2), reference_logprobs_A=reference, weight_A=torch.tensor([1.0, 3.0])
    )
    found = objective(logprobs, actions, config, STALENESS)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0.1 * (0.125 + 3 * 0.08))
    assert found.kl_reference.item() == pytest.approx(0.125 + 0.08)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.1 * 0.5, 0.1 * 3 * -0.4])


def closed(spent: list[float], *, to_reference: Tensor | None = None, scale: list[float] | None = None) -> ClosedForm:
    """What is known of Gaussian actions."""
    scales = torch.ones(len(spent)) if scale is None else torch.tensor(scale)
    return ClosedForm(torch.tensor(spent), to_reference, scales)


def test_the_budget_of_gaussian_actions_is_spent_in_closed_form() -> None:
    """Two trajectories of two steps: of 0.3 + 0.3 and of 0.4 + 0.7 nats, though the log-ratios say otherwise."""
    zeros = torch.zeros(4)
    actions = known(
        torch.tensor([-3.0, -3.0, 0.0, 0.0]),
        torch.ones(4),
        zeros,
        segment_ids_A=torch.tensor([0, 0, 1, 1]),
        num_segments=2,
    )
    exact = closed([0.3, 0.3, 0.4, 0.7])
    found = objective(zeros.requires_grad_(), actions, PPO, StalenessConfig(kl_budget=1.0), exact)
    assert (found.num_kept.item(), found.num_masked.item()) == (4, 2)
    assert found.kl_behaviour_prox.item() == pytest.approx(1.7)
    found = objective(zeros, actions, PPO, StalenessConfig(kl_budget=1.2), exact)
    assert found.num_masked.item() == 0


def test_an_exact_divergence_is_added_with_its_gradient() -> None:
    distance = torch.tensor([2.0, 3.0, 100.0], requires_grad=True)
    logprobs = torch.zeros(3, requires_grad=True)
    config = AlgorithmConfig.model_validate({"kl": {"coefficient": 0.1, "estimator": "exact"}})
    keep, weight = torch.tensor([True, True, False]), torch.tensor([0.5, 0.25, 0.25])
    actions = known(torch.zeros(3), torch.zeros(3), keep_A=keep, weight_A=weight)
    found = objective(logprobs, actions, config, STALENESS, closed([0.0] * 3, to_reference=distance.square()))
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0.1 * (0.5 * 4 + 0.25 * 9))
    assert found.kl_reference.item() == pytest.approx(13)
    assert distance.grad is not None
    assert distance.grad.tolist() == pytest.approx([0.1 * 0.5 * 4, 0.1 * 0.25 * 6, 0.0])


def test_clip_ranges_in_nats_are_of_each_action() -> None:
    """e^0.5 above and e^−0.25 below times the scale: 1, 2 and 1, 2."""
    config = AlgorithmConfig.model_validate({"objective": {"clip_in": "nats", "clip_low": 0.25, "clip_high": 0.5}})
    logprobs = torch.tensor([2.0, 2.0, -2.0, -2.0], requires_grad=True)
    zeros, advantages = torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0])
    scale = closed([0.0] * 4, scale=[1.0, 2.0, 1.0, 2.0])
    found = objective(logprobs, known(zeros, advantages, zeros), config, STALENESS, scale)
    wanted = -math.exp(0.5) - math.exp(1.0) + math.exp(-0.25) + math.exp(-0.5)
    assert found.loss.item() == pytest.approx(wanted, rel=1e-6)
    assert found.num_clipped.item() == 4


def test_a_clip_range_in_nats_may_be_large_and_one_of_ratios_not() -> None:
    AlgorithmConfig.model_validate({"objective": {"clip_in": "nats", "clip_low": 3.0}})
    with pytest.raises(ValueError, match=r"clip_low is 3\.0, and no ratio is below 0"):
        AlgorithmConfig.model_validate({"objective": {"clip_low": 3.0}})


@pytest.mark.parametrize("theta", [-200.0, 0.0])
@pytest.mark.parametrize("behaviour", [-200.0, 0.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("name", ["ppo", "gspo", "cispo", "sapo", "m2po", "topr", "truncated_is", "rebel", "reinforce"])
def test_huge_ratios_stay_finite(theta: float, behaviour: float, advantage: float, name: str) -> None:
    """Of an action beside one whose ratios are 1, which rebel pairs it with."""
    logprobs = torch.tensor([theta, -100.0], requires_grad=True)
    actions = known(torch.tensor([behaviour, -100.0]), torch.tensor([advantage, 0.0]), torch.tensor([-100.0, -100.0]))
    off = {"action": "off"} if name in UNWEIGHTED else {}
    config = AlgorithmConfig.model_validate({"objective": {"name": name}, "behaviour": off})
    found = objective(logprobs, actions, config, STALENESS)
    found.loss.backward()
    assert all(math.isfinite(getattr(found, field.name).item()) for field in fields(found))
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ppo", "gspo", "cispo", "sapo", "m2po", "topr", "truncated_is", "reinforce"])
@pytest.mark.parametrize("level", ["token", "sequence", "geometric", "mean"])
def test_a_dropped_action_adds_nothing_even_if_it_is_nan(name: str, level: str) -> None:
    """The two are of one trajectory."""
    logprobs = torch.tensor([-1.0, math.nan], requires_grad=True)
    nan = torch.tensor([-1.0, math.nan])
    off = {"action": "off"} if name in UNWEIGHTED else {"level": level}
    config = AlgorithmConfig.model_validate({"objective": {"name": name}, "behaviour": off, "kl": {"coefficient": 1.0}})
    actions = known(
        nan,
        torch.tensor([2.0, math.nan]),
        nan,
        keep_A=torch.tensor([True, False]),
        segment_ids_A=torch.tensor([0, 0]),
        num_segments=1,
        reference_logprobs_A=nan,
    )
    found = objective(logprobs, actions, config, STALENESS)
    found.loss.backward()
    assert (found.num_kept.item(), found.behaviour_weight.item()) == (1, 1)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, 0.0])


def test_rebel_is_a_regression_that_no_behaviour_weight_multiplies() -> None:
    """d = 0.3 and −0.4, A = 1 and −1 at η = 0.5: (0.7/0.5 − 2)² = 0.36 for each, though π_prox/π_behav is e and e²."""
    config = AlgorithmConfig.model_validate(
        {"objective": {"name": "rebel", "eta": 0.5}, "behaviour": {"action": "off"}}
    )
    prox, behaviour = torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -3.0])
    actions = known(behaviour, torch.tensor([1.0, -1.0]), prox, weight_A=torch.tensor([0.5, 0.5]))
    found = objective(torch.tensor([-0.7, -1.4], requires_grad=True), actions, config, STALENESS)
    assert found.loss.item() == pytest.approx(0.36, abs=1e-6)
    for action in ("truncate", "mask"):
        with pytest.raises(ValueError, match=r"rebel is a regression, .*; set behaviour.action to off"):
            AlgorithmConfig.model_validate({"objective": {"name": "rebel"}, "behaviour": {"action": action}})


def test_refuses_what_cannot_be_a_batch() -> None:
    ones = torch.ones(2)
    with pytest.raises(ValueError, match=r"logprobs \[2\] and keep_A \[3\] are not both \[A\]"):
        objective(ones, known(ones, ones, keep_A=torch.ones(3, dtype=torch.bool)), PPO, STALENESS)
    with pytest.raises(ValueError, match="not bool"):
        objective(ones, known(ones, ones, keep_A=ones), PPO, STALENESS)
