import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from areal.learner.algorithm.surrogate import (
    Surrogate,
    cispo,
    dual_clip,
    ppo_clip,
    rebel,
    reinforce,
    sapo,
    sequence_ratio,
    topr,
    truncated_is,
)

Loss = Callable[[Tensor, Tensor, Tensor], Surrogate]


def one(loss: Loss, ratio: float, advantage: float, logprob: float = -1.5) -> tuple[float, float, bool]:
    """Loss, dL/dlog π_θ and clipped of a single action, given its ratio to a fixed policy.

    The loss is called with log π_θ, the log-ratio, through which the gradient flows too, and the advantage.
    """
    logprobs = torch.tensor([logprob], requires_grad=True)
    log_ratio = logprobs - (logprob - math.log(ratio))
    surrogate = loss(logprobs, log_ratio, torch.tensor([advantage]))
    surrogate.loss_A.sum().backward()
    assert logprobs.grad is not None
    return surrogate.loss_A.item(), logprobs.grad.item(), bool(surrogate.clipped_A.item())


# −min(u·A, clip(u, 0.8, 1.3)·A); its gradient in log u is −u·A unless the clip bites
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        pytest.param(1.0, 3.0, -3.0, -3.0, False, id="on policy"),
        pytest.param(1.2, 2.0, -2.4, -2.4, False, id="inside"),
        pytest.param(1.6, 2.0, -2.6, 0.0, True, id="clipped above"),
        pytest.param(1.6, -2.0, 3.2, 3.2, False, id="above, but the advantage pulls back"),
        pytest.param(0.4, -2.0, 1.6, 0.0, True, id="clipped below"),
        pytest.param(0.4, 2.0, -0.8, -0.8, False, id="below, but the advantage pulls back"),
        pytest.param(1.6, 0.0, 0.0, 0.0, False, id="no advantage"),
    ],
)
def test_ppo_clip_pinned_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    found = one(lambda _, log_u, a: ppo_clip(log_u, a, 0.2, 0.3), ratio, advantage)
    assert found == pytest.approx((loss, gradient, clipped), rel=1e-5)


def test_each_action_has_its_own_clip_range() -> None:
    log_u = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    low, high = torch.tensor([0.2, 0.2, 0.6, 0.1]), torch.tensor([0.6, 0.1, 0.2, 0.2])
    surrogate = ppo_clip(log_u, advantages, low, high)
    surrogate.loss_A.sum().backward()
    assert surrogate.loss_A.tolist() == pytest.approx([-1.5, -1.1, 0.5, 0.9])
    assert surrogate.clipped_A.tolist() == [False, True, False, True]
    assert log_u.grad is not None
    assert log_u.grad.tolist() == pytest.approx([-1.5, 0.0, 0.5, 0.0])
    assert ppo_clip(log_u, advantages, 0.2, high).loss_A.tolist() == pytest.approx([-1.5, -1.1, 0.8, 0.8])


# as above with ε 0.2, 0.3, but where A < 0 the loss is at most 3·|A|
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        pytest.param(5.0, -2.0, 6.0, 0.0, True, id="bounded"),
        pytest.param(2.9, -2.0, 5.8, 5.8, False, id="under the bound"),
        pytest.param(0.4, -2.0, 1.6, 0.0, True, id="clipped below"),
        pytest.param(5.0, 2.0, -2.6, 0.0, True, id="a good action has no second clip"),
        pytest.param(1.0, -2.0, 2.0, 2.0, False, id="on policy"),
    ],
)
def test_dual_clip_pinned_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    found = one(lambda _, log_u, a: dual_clip(log_u, a, 0.2, 0.3, 3.0), ratio, advantage)
    assert found == pytest.approx((loss, gradient, clipped), rel=1e-5)


def test_dual_clip_is_the_maximum_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    log_u, advantages = torch.randn(200, generator=generator) * 2, torch.randn(200, generator=generator)
    found = dual_clip(log_u, advantages, 0.2, 0.3, 1.1).loss_A.tolist()  # the bound lies within the clip range
    for u, a, loss in zip(log_u.exp().tolist(), advantages.tolist(), found, strict=True):
        single = min(u * a, min(max(u, 0.8), 1.3) * a)
        assert loss == pytest.approx(-max(single, 1.1 * a) if a < 0 else -single, rel=1e-5)


@pytest.mark.parametrize("bound", [1.0, 0.5, -2.0, math.nan])
def test_dual_clip_refuses_a_bound_that_cuts_off_what_is_on_policy(bound: float) -> None:
    with pytest.raises(ValueError, match="not above 1"):
        dual_clip(torch.zeros(1), torch.zeros(1), 0.2, 0.2, bound)


def test_the_sequence_ratio_is_the_geometric_mean_of_what_is_kept() -> None:
    log_u = torch.tensor([math.log(2.0), math.log(8.0), math.log(3.0), math.nan, 0.5], requires_grad=True)
    segments, keep = torch.tensor([1, 1, 0, 1, 2]), torch.tensor([True, True, True, False, False])
    log_s = sequence_ratio(log_u, segments, 3, keep)
    assert log_s.exp().tolist() == pytest.approx([4.0, 4.0, 3.0, 1.0, 1.0])
    (log_s * torch.tensor([1.0, 10.0, 100.0, math.inf, math.inf]))[keep].sum().backward()
    assert log_u.grad is not None
    assert log_u.grad.tolist() == pytest.approx([5.5, 5.5, 100.0, 0.0, 0.0])


def test_gspo_has_the_gradient_of_its_paper() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths, ids, advantages = [3, 1, 7, 4, 5], [2, 0, 4, 1, 3], [1.5, -0.7, 2.0, -1.1, 0.4]
    log_u = torch.randn(20, generator=generator)

    # ∇L = −1/S · Σ_i s_i·A_i · 1/n_i · Σ_t ∇log π(t), s_i the geometric mean of the ratios; 0 where s_i is clipped
    expected, clipped = [], []
    for row, advantage in zip(log_u.split(lengths), advantages, strict=True):
        s = math.prod(math.exp(ratio) for ratio in row.tolist()) ** (1 / len(row))
        cut = (advantage > 0 and s > 1.2) or (advantage < 0 and s < 0.8)
        expected += [0.0 if cut else -s * advantage / len(row) / 5] * len(row)
        clipped += [cut] * len(row)
    assert {True, False} == set(clipped)

    def spread(values: list[float] | list[int]) -> Tensor:
        return torch.tensor(values).repeat_interleave(torch.tensor(lengths))

    log_u.requires_grad_()
    log_s = sequence_ratio(log_u, spread(ids), 5, torch.ones(20, dtype=torch.bool))
    surrogate = ppo_clip(log_s, spread(advantages), 0.2, 0.2)
    (surrogate.loss_A / (5 * spread(lengths))).sum().backward()
    assert log_u.grad is not None
    assert log_u.grad.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert surrogate.clipped_A.tolist() == clipped


# −clip(u, 0.8, 1.3)·A·log π_θ at log π_θ = −1.5; its gradient is −clip(u)·A, never 0
@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "loss", "gradient", "clipped"),
    [
        pytest.param(1.0, 2.0, 0.2, 3.0, -2.0, False, id="on policy"),
        pytest.param(1.6, 2.0, 0.2, 3.9, -2.6, True, id="capped"),
        pytest.param(1.6, -2.0, 0.2, -3.9, 2.6, True, id="capped whatever the advantage"),
        pytest.param(0.4, 2.0, 0.2, 2.4, -1.6, True, id="raised to the lower bound"),
        pytest.param(0.4, 2.0, 5.0, 1.2, -0.8, False, id="no lower bound"),
    ],
)
def test_cispo_pinned_by_hand(
    ratio: float, advantage: float, low: float, loss: float, gradient: float, clipped: bool
) -> None:
    found = one(lambda logprobs, log_u, a: cispo(logprobs, log_u, a, low, 0.3), ratio, advantage)
    assert found == pytest.approx((loss, gradient, clipped), rel=1e-5)


# −(4/τ)·σ(τ(u−1))·A with τ = 1 and 2: σ(0) = 1/2; σ(1) = 0.731059, σ' = 0.196612; σ(2) = 0.880797, σ' = 0.104994
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        pytest.param(1.0, 3.0, -6.0, -3.0, id="on policy, good"),
        pytest.param(1.0, -3.0, 3.0, 3.0, id="on policy, bad"),
        pytest.param(2.0, 3.0, -4 * 0.7310586 * 3, -4 * 0.1966119 * 2 * 3, id="above, good"),
        pytest.param(2.0, -3.0, 2 * 0.8807971 * 3, 4 * 0.1049936 * 2 * 3, id="above, bad, fades faster"),
        pytest.param(0.5, -3.0, 2 * 0.2689414 * 3, 4 * 0.1966119 * 0.5 * 3, id="below, bad"),
    ],
)
def test_sapo_pinned_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    found = one(lambda _, log_u, a: sapo(log_u, a, tau_positive=1.0, tau_negative=2.0), ratio, advantage)
    assert found == pytest.approx((loss, gradient, False), rel=1e-5)


# −min(r, 2)·A·log π_θ at log π_θ = −1.5
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        pytest.param(0.5, 2.0, 1.5, -1.0, False, id="below"),
        pytest.param(5.0, 2.0, 6.0, -4.0, True, id="truncated"),
        pytest.param(5.0, -2.0, -6.0, 4.0, True, id="truncated, bad"),
    ],
)
def test_truncated_is_pinned_by_hand(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    found = one(lambda logprobs, log_r, a: truncated_is(logprobs, log_r, a, cap=2.0), ratio, advantage)
    assert found == pytest.approx((loss, gradient, clipped), rel=1e-5)


def test_topr_pinned_by_hand() -> None:
    # trajectory 0 is good, r = 6 · 0.5; 1 is bad, r = 0.5 · 0.5; 2 is bad, r = 4 · 2; the third actions are dropped
    ratios = torch.tensor([6.0, 0.5, math.nan, 0.5, 0.5, math.nan, 4.0, 2.0, math.nan])
    segments = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    keep = torch.tensor([True, True, False] * 3)
    advantages = torch.tensor([2.0, 2.0, 0.0, -2.0, -2.0, 0.0, -3.0, -3.0, 0.0])
    logprobs = torch.tensor([-1.0, -2.0, 0.0] * 3, requires_grad=True)
    surrogate = topr(logprobs, ratios.log() + 0 * logprobs, advantages, segments, 3, keep, cap=1.0)
    surrogate.loss_A.sum().backward()
    assert surrogate.loss_A.tolist() == pytest.approx([2.0, 4.0, 0.0, -0.5, -1.0, 0.0, -3.0, -6.0, 0.0])
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, -2.0, 0.0, 0.5, 0.5, 0.0, 3.0, 3.0, 0.0])
    assert surrogate.clipped_A[keep].tolist() == [False] * 4 + [True] * 2


def test_topr_stays_finite_over_a_long_trajectory() -> None:
    size = 1000
    for log_ratio, weight in ((20.0, 1.0), (-20.0, 0.0)):
        logprobs = torch.full((size,), -1.0, requires_grad=True)
        segments, keep = torch.zeros(size, dtype=torch.long), torch.ones(size, dtype=torch.bool)
        topr(logprobs, torch.full((size,), log_ratio), -torch.ones(size), segments, 1, keep).loss_A.sum().backward()
        assert logprobs.grad is not None
        assert logprobs.grad.tolist() == [weight] * size


def test_rebel_pinned_by_hand() -> None:
    """The first pair: d = 0.3 and −0.4, A = 1 and −1, so that (0.7/0.5 − 2)² = 0.36, borne by three actions."""
    log_u = torch.tensor([0.1, 0.2, -0.4, 0.5, 0.1, 0.3], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, 9.0, 0.5, 0.5])
    segments, keep = torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([True, True, True, False, True, True])
    surrogate = rebel(log_u, advantages, segments, 4, keep, eta=0.5)
    assert surrogate.loss_A.tolist() == pytest.approx([0.36, 0.36, 0.36, 0.0, 0.0, 0.0], abs=1e-6)
    surrogate.loss_A.sum().backward()
    assert log_u.grad is not None
    assert log_u.grad.tolist() == pytest.approx([-7.2, -7.2, 7.2, 0.0, 0.0, 0.0], abs=1e-5)  # ±3·2·0.6/0.5
    with pytest.raises(ValueError, match="3 trajectories are no pairs"):
        rebel(log_u, advantages, segments.clamp(max=2), 3, keep, eta=0.5)


def test_reinforce_pinned_by_hand() -> None:
    assert one(lambda logprobs, _, a: reinforce(logprobs, a), 3.0, 2.0) == (3.0, -2.0, False)


SEGMENTS, KEEP = torch.tensor([0, 0]), torch.tensor([True, False])


def beside_nothing(_: Tensor, log_u: Tensor, advantages: Tensor) -> Surrogate:
    """REBEL's of a trajectory whose rival stays where it is and has advantage 0: (d/η − A)², at η = 2."""
    rival = torch.zeros(1)
    segments, keep = torch.tensor([0, 0, 1]), torch.tensor([True, False, True])
    found = rebel(torch.cat([log_u, rival]), torch.cat([advantages, rival]), segments, 2, keep, eta=2.0)
    return Surrogate(found.loss_A[:2], found.clipped_A[:2])


LOSSES: dict[str, Loss] = {
    "ppo_clip": lambda _, log_u, a: ppo_clip(log_u, a, 0.2, 0.2),
    "dual_clip": lambda _, log_u, a: dual_clip(log_u, a, 0.2, 0.2, 3.0),
    "gspo": lambda _, log_u, a: ppo_clip(sequence_ratio(log_u, SEGMENTS, 1, KEEP), a, 0.2, 0.2),
    "cispo": lambda logprobs, log_u, a: cispo(logprobs, log_u, a, 0.2, 0.2),
    "sapo": lambda _, log_u, a: sapo(log_u, a, 1.0, 1.05),
    "truncated_is": lambda logprobs, log_r, a: truncated_is(logprobs, log_r, a, 2.0),
    "topr": lambda logprobs, log_r, a: topr(logprobs, log_r, a, SEGMENTS, 1, KEEP),
    "rebel": beside_nothing,
    "reinforce": lambda logprobs, _, a: reinforce(logprobs, a),
}


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_each_is_the_policy_gradient_and_a_dropped_action_is_nothing(name: str) -> None:
    logprobs = torch.tensor([-1.0, 0.0], requires_grad=True)
    advantages = torch.tensor([2.0, 0.0], requires_grad=True)
    surrogate = LOSSES[name](logprobs, logprobs - logprobs.detach(), advantages)
    surrogate.loss_A.sum().backward()
    assert surrogate.loss_A[1].item() == 0.0
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, 0.0])
    assert surrogate.clipped_A.tolist() == [False, False]
    assert advantages.grad is None  # constants, whatever made them


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("log_ratio", [-20.0, 20.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_clamped_log_ratios_stay_finite(name: str, log_ratio: float, advantage: float) -> None:
    logprobs = torch.tensor([-1.0, 0.0], requires_grad=True)
    drift = torch.tensor([log_ratio, 0.0])
    surrogate = LOSSES[name](logprobs, logprobs - logprobs.detach() + drift, torch.tensor([advantage, 0.0]))
    surrogate.loss_A.sum().backward()
    assert surrogate.loss_A.isfinite().all()
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()
