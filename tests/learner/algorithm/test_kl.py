"""Expectations are exact: every action of a small categorical distribution, weighted by its probability."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from areal.learner.algorithm.kl import ESTIMATORS, k1, k2, k3
from areal.learner.algorithm.ratio import MAX_LOG_RATIO

Estimator = Callable[[Tensor, Tensor], Tensor]
LOGITS = torch.tensor([0.3, -0.9, 1.4, 0.0, -2.0])
REF_LOGPROBS = torch.tensor([0.10, 0.25, 0.05, 0.40, 0.20]).log()


def expected_value(estimator: Estimator, logits: Tensor) -> float:
    """E[k] for actions sampled from softmax(logits)."""
    logprobs = logits.log_softmax(0)
    return (logprobs.exp() * estimator(logprobs, REF_LOGPROBS)).sum().item()


def expected_gradient(estimator: Estimator, logits: Tensor) -> Tensor:
    """E[∇k], the probabilities of sampling not differentiated: what a loss of k on sampled actions descends."""
    logits = logits.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    (logprobs.detach().exp() * estimator(logprobs, REF_LOGPROBS)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def reverse_kl(logits: Tensor) -> Tensor:
    """KL(π_θ‖π_ref)"""
    logprobs = logits.log_softmax(0)
    return (logprobs.exp() * (logprobs - REF_LOGPROBS)).sum()


def forward_kl(logits: Tensor) -> Tensor:
    """KL(π_ref‖π_θ)"""
    return (REF_LOGPROBS.exp() * (REF_LOGPROBS - logits.log_softmax(0))).sum()


def gradient(divergence: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(divergence(leaf := logits.clone().requires_grad_()), leaf)
    return grad


def test_values_pinned_by_hand() -> None:
    logprobs, ref_logprobs = torch.tensor([0.5, 0.2]).log(), torch.tensor([0.25, 0.6]).log()  # r = 1/2 and 3
    assert k1(logprobs, ref_logprobs).tolist() == pytest.approx([math.log(2), -math.log(3)])
    assert k2(logprobs, ref_logprobs).tolist() == pytest.approx([math.log(2) ** 2 / 2, math.log(3) ** 2 / 2])
    assert k3(logprobs, ref_logprobs).tolist() == pytest.approx([-0.5 + math.log(2), 2 - math.log(3)])


@pytest.mark.parametrize("estimator", [k1, k3])
def test_k1_and_k3_are_unbiased(estimator: Estimator) -> None:
    assert expected_value(estimator, LOGITS) == pytest.approx(reverse_kl(LOGITS).item(), rel=1e-5)


def test_the_bias_of_k2_is_of_third_order() -> None:
    """1 = E[r] = E[exp log r], hence E[k2] = KL − E[(log r)³]/6 − E[(log r)⁴]/24 − …"""
    near = REF_LOGPROBS + 0.1 * LOGITS
    log_r = REF_LOGPROBS - near.log_softmax(0)
    higher = (near.softmax(0) * (log_r**3 / 6 + log_r**4 / 24)).sum().item()
    assert expected_value(k2, near) - reverse_kl(near).item() == pytest.approx(-higher, rel=0.05)
    assert abs(expected_value(k2, LOGITS) - reverse_kl(LOGITS).item()) > 0.1


def test_the_gradient_of_k1_vanishes() -> None:
    torch.testing.assert_close(expected_gradient(k1, LOGITS), torch.zeros(5), rtol=0.0, atol=1e-6)
    assert gradient(reverse_kl, LOGITS).abs().max() > 0.1


def test_the_gradient_of_k2_is_that_of_the_reverse_kl() -> None:
    torch.testing.assert_close(expected_gradient(k2, LOGITS), gradient(reverse_kl, LOGITS))


def test_k1_as_a_reward_has_the_gradient_of_the_reverse_kl() -> None:
    def as_reward(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return k1(logprobs, ref_logprobs).detach() * logprobs

    torch.testing.assert_close(expected_gradient(as_reward, LOGITS), gradient(reverse_kl, LOGITS))


def test_the_gradient_of_k3_is_that_of_the_forward_kl() -> None:
    found = expected_gradient(k3, LOGITS)
    torch.testing.assert_close(found, gradient(forward_kl, LOGITS))
    torch.testing.assert_close(found, LOGITS.softmax(0) - REF_LOGPROBS.exp())  # of the cross-entropy, by hand
    assert (found - gradient(reverse_kl, LOGITS)).abs().max() > 0.1


def test_k3_nears_the_reverse_kl_with_the_distance() -> None:
    near = REF_LOGPROBS + 1e-2 * LOGITS
    torch.testing.assert_close(expected_gradient(k3, near), gradient(reverse_kl, near), rtol=0.05, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS.values())
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_log_ratios_are_clamped(estimator: Estimator, gap: float) -> None:
    logprobs = torch.tensor([gap], requires_grad=True)
    value = estimator(logprobs, torch.zeros(1))
    value.sum().backward()
    assert value.item() == estimator(torch.tensor([math.copysign(MAX_LOG_RATIO, gap)]), torch.zeros(1)).item()
    assert logprobs.grad is not None and logprobs.grad.item() == 0.0


@pytest.mark.parametrize("estimator", ESTIMATORS.values())
def test_the_reference_gets_no_gradient(estimator: Estimator) -> None:
    ref_logprobs = torch.zeros(2, requires_grad=True)
    estimator(torch.ones(2, requires_grad=True), ref_logprobs).sum().backward()
    assert ref_logprobs.grad is None


def test_k2_and_k3_are_exact_near_equality() -> None:
    logprobs = torch.tensor([0.0])
    ref_logprobs = torch.tensor([1e-4])
    assert k3(logprobs, ref_logprobs).item() == pytest.approx(5e-9, rel=0.01)
    assert k2(logprobs, ref_logprobs).item() == pytest.approx(5e-9, rel=1e-5)


def test_estimators_bear_their_names() -> None:
    assert all(estimator.__name__ == name for name, estimator in ESTIMATORS.items()) and len(ESTIMATORS) == 3


@pytest.mark.parametrize("estimator", ESTIMATORS.values())
def test_refuses_shapes_that_do_not_match(estimator: Estimator) -> None:
    with pytest.raises(ValueError, match=r"logprobs \[2\] and ref logprobs \[3\]"):
        estimator(torch.zeros(2), torch.zeros(3))
