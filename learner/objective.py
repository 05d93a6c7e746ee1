"""Objectives: what an optimiser step descends. Pure functions of flat tensors.

Legend: A actions (sampled tokens, or denoising steps) of a micro-batch, in any order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import ObjectiveConfig

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ± this before exp (as in verl): e²⁰ ≈ 5·10⁸ is far past any clip, and nothing overflows."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss and what is known about it.

    Everything is a scalar tensor and a sum, so that micro-batches add up to their batch. All but `loss` are detached
    sums over the kept actions; divide by `num_kept` for means. `num_clipped` counts the actions whose gradient the
    clip cut off, `num_capped` those whose behaviour weight met its cap; `behaviour_weight` and its square are of the
    uncapped w = π_prox/π_behav, whose effective sample size is (Σw)²/Σw². `behaviour_logratio` sums
    log π_prox − log π_behav. The two KL sums hold Schulman's k3 estimator, r − 1 − log r ≥ 0 with
    r = π_prox/π_behav for KL(π_behav‖π_prox) and r = π_θ/π_prox for KL(π_prox‖π_θ); the actions come from π_behav,
    so the second is approximate while the policies differ.
    """

    loss: Tensor
    num_kept: Tensor
    num_clipped: Tensor
    num_capped: Tensor
    behaviour_weight: Tensor
    behaviour_weight_squared: Tensor
    behaviour_logratio: Tensor
    kl_behaviour_prox: Tensor
    kl_prox_theta: Tensor


def decoupled_ppo(
    logprobs_A: Tensor,
    prox_logprobs_A: Tensor,
    *,
    behaviour_logprobs_A: Tensor,
    advantages_A: Tensor,
    keep_A: Tensor,
    config: ObjectiveConfig,
    denominator: float,
) -> Objective:
    """The decoupled PPO loss: L = −1/D · Σ min(w, w_max) · min(u·A, clip(u, 1−ε_lo, 1+ε_hi)·A).

    u = π_θ/π_prox carries the gradient and is clipped around the proximal policy; w = π_prox/π_behav is detached and
    corrects for the policy that sampled; it is always applied, and capped at w_max to bound the variance.

    Source: AReaL, arXiv 2505.24298, eq. 5; the decoupling is Hilton et al., arXiv 2110.00641, section 3; the clipped
    surrogate Schulman et al., arXiv 1707.06347, eq. 7.

    logprobs_A:           float[A], log π_θ, with gradient.
    prox_logprobs_A:      float[A], log π_prox; `logprobs_A.detach()` where the step has one minibatch.
    behaviour_logprobs_A: float[A], log π_behav, as sampled.
    advantages_A:         float[A].
    keep_A:               bool[A], false where an action counts for nothing (too old, say), whatever its numbers.
    config:               ε_lo (clip_low), ε_hi (clip_high) and w_max (max_behaviour_weight).
    denominator:          D, the kept actions of the whole batch, so that the losses of micro-batches sum to its mean.
    """
    _check(logprobs_A, prox_logprobs_A, behaviour_logprobs_A, advantages_A, keep_A)
    if not denominator > 0:
        raise ValueError(f"denominator is {denominator}, not the positive number of kept actions of the batch")
    prox_A = prox_logprobs_A.detach()
    log_u_A = _log_ratio(logprobs_A, prox_A, keep_A)
    log_w_A = _log_ratio(prox_A, behaviour_logprobs_A.detach(), keep_A)
    advantage_A = torch.where(keep_A, advantages_A.detach().float(), 0.0)
    u_A, w_A, w_max = log_u_A.exp(), log_w_A.exp(), config.max_behaviour_weight

    free_A = u_A * advantage_A
    clipped_A = u_A.clamp(1.0 - config.clip_low, 1.0 + config.clip_high) * advantage_A
    loss = -(w_A.clamp(max=w_max) * torch.minimum(free_A, clipped_A)).sum() / denominator

    with torch.no_grad():  # dropped actions have log-ratio 0 and advantage 0: they add nothing but w = 1
        kept_A = keep_A.float()
        return Objective(
            loss=loss,
            num_kept=kept_A.sum(),
            num_clipped=(clipped_A < free_A).float().sum(),
            num_capped=((w_A > w_max) & keep_A).float().sum(),
            behaviour_weight=(w_A * kept_A).sum(),
            behaviour_weight_squared=(w_A.square() * kept_A).sum(),
            behaviour_logratio=log_w_A.sum(),
            kl_behaviour_prox=_k3(log_w_A).sum(),
            kl_prox_theta=_k3(log_u_A).sum(),
        )


def _log_ratio(log_p_A: Tensor, log_q_A: Tensor, keep_A: Tensor) -> Tensor:
    """float32[A], log p/q, clamped; 0 without gradient where dropped, so that not even a NaN there leaks."""
    difference_A = log_p_A.float() - log_q_A.float()
    return torch.where(keep_A, difference_A, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _k3(log_r_A: Tensor) -> Tensor:
    """float32[A], r − 1 − log r (http://joschu.net/blog/kl-approx.html); expm1 keeps it exact near r = 1."""
    return torch.expm1(log_r_A) - log_r_A


def _check(logprobs_A: Tensor, *others_A: Tensor) -> None:
    for other_A in others_A:
        if logprobs_A.ndim != 1 or other_A.shape != logprobs_A.shape:
            raise ValueError(f"shapes {list(logprobs_A.shape)} and {list(other_A.shape)} are not both [A]")
    if others_A[-1].dtype != torch.bool:
        raise ValueError(f"keep is {others_A[-1].dtype}, not bool")
