"""Surrogates: the loss of each action, before any weighting. Pure functions of flat tensors.

Legend: A actions (sampled tokens) of a micro-batch, laid flat; S trajectories, of which `segment_ids_A` int64[A] names
the one an action belongs to. u = π_θ/π_prox and r = a ratio of the caller's choice; sg stops the gradient.

Advantages are constants here, whatever made them. A dropped action comes with log-ratio, log-probability and advantage
0; its loss is then 0 and carries no gradient.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .flat import segment_mean, segment_sum


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The loss of each action, and where its limit took hold.

    loss_A:    float[A], with gradient.
    clipped_A: bool[A]; the gradient is cut off (`ppo_clip`, `dual_clip`), or its weight held at a bound (`cispo`,
               `truncated_is`, `topr`). `sapo` and `reinforce` have no such limit.
    """

    loss_A: Tensor
    clipped_A: Tensor


def ppo_clip(log_u_A: Tensor, advantages_A: Tensor, low_A: Tensor | float, high_A: Tensor | float) -> Surrogate:
    """The clipped surrogate: L = −min(u·A, clip(u, 1−ε_lo, 1+ε_hi)·A).

    Source: Schulman et al., arXiv 1707.06347, eq. 7; ε_lo ≠ ε_hi is DAPO, arXiv 2503.14476, section 3.1; over
    `sequence_ratio` it is GSPO.

    log_u_A:       float[A], log π_θ/π_prox, with gradient.
    advantages_A:  float[A].
    low_A, high_A: float[A] or one number, ε_lo and ε_hi; a tensor where they depend on the action, on its age, say.
    """
    advantage_A, u_A = advantages_A.detach(), log_u_A.exp()
    free_A, bounded_A = u_A * advantage_A, _clip(u_A, low_A, high_A) * advantage_A
    return Surrogate(loss_A=-torch.minimum(free_A, bounded_A), clipped_A=bounded_A < free_A)


def dual_clip(
    log_u_A: Tensor, advantages_A: Tensor, low_A: Tensor | float, high_A: Tensor | float, bound: float
) -> Surrogate:
    """The dual-clipped surrogate: that of `ppo_clip`, but no more than c·|A| where A < 0.

    Without c the loss of a bad action grows with u, and so does the gradient that pushes it away.

    Source: Ye et al., arXiv 1912.09729.

    log_u_A, advantages_A, low_A, high_A: as in `ppo_clip`.
    bound:                                c > 1.
    """
    if not bound > 1.0:
        raise ValueError(f"the bound of the dual clip is {bound}, not above 1")
    advantage_A, single = advantages_A.detach(), ppo_clip(log_u_A, advantages_A, low_A, high_A)
    cut_A = (advantage_A < 0) & (log_u_A.detach() > math.log(bound))
    return Surrogate(loss_A=torch.where(cut_A, -bound * advantage_A, single.loss_A), clipped_A=single.clipped_A | cut_A)


def sequence_ratio(log_u_A: Tensor, segment_ids_A: Tensor, num_segments: int, keep_A: Tensor) -> Tensor:
    """float[A], log s = the mean of log u over the kept actions of the trajectory, with gradient; 0 where dropped.

    s is the length-normalised likelihood ratio of the trajectory; `ppo_clip` over it is GSPO, which clips whole
    trajectories and wants a range of about 3·10⁻⁴, and its loss averaged over each trajectory.

    Source: Zheng et al., arXiv 2507.18071.

    log_u_A:       float[A], log π_θ/π_prox, with gradient.
    segment_ids_A: int64[A], the trajectory of each action.
    num_segments:  S.
    keep_A:        bool[A], the actions that count.
    """
    log_u_A = torch.where(keep_A, log_u_A, 0.0)
    log_s_S = segment_mean(log_u_A, segment_ids_A, num_segments, keep_A)
    return torch.where(keep_A, log_s_S[segment_ids_A], 0.0)


def cispo(
    logprobs_A: Tensor, log_u_A: Tensor, advantages_A: Tensor, low_A: Tensor | float, high_A: Tensor | float
) -> Surrogate:
    """CISPO: L = −sg(clip(u, 1−ε_lo, 1+ε_hi))·A·log π_θ; every action keeps a gradient, only its weight is bounded.

    Source: MiniMax-M1, arXiv 2506.13585, which sets no lower bound (ε_lo ≥ 1).

    logprobs_A:                           float[A], log π_θ, with gradient.
    log_u_A, advantages_A, low_A, high_A: as in `ppo_clip`.
    """
    u_A = log_u_A.exp()
    weight_A = _clip(u_A, low_A, high_A)
    return Surrogate(loss_A=_policy_gradient(logprobs_A, weight_A, advantages_A), clipped_A=weight_A != u_A)


def sapo(log_u_A: Tensor, advantages_A: Tensor, tau_positive: float, tau_negative: float) -> Surrogate:
    """SAPO, a soft clip: L = −(4/τ)·σ(τ·(u−1))·A, with τ by the sign of A.

    The gradient in log u is −4σ(1−σ)·u·A: that of u·A at u = 1, fading on both sides, the faster the larger τ.

    Source: Gao et al., arXiv 2511.20347, with τ 1.0 and 1.05.

    log_u_A, advantages_A:      as in `ppo_clip`.
    tau_positive, tau_negative: τ > 0 where A > 0, and elsewhere.
    """
    advantage_A = advantages_A.detach()
    tau_A = torch.where(advantage_A > 0, tau_positive, tau_negative)
    gate_A = 4.0 / tau_A * torch.sigmoid(tau_A * torch.expm1(log_u_A))
    return Surrogate(loss_A=-gate_A * advantage_A, clipped_A=torch.zeros_like(advantage_A, dtype=torch.bool))


def truncated_is(logprobs_A: Tensor, log_ratio_A: Tensor, advantages_A: Tensor, cap: float) -> Surrogate:
    """The policy gradient under truncated importance sampling: L = −sg(min(r, cap))·A·log π_θ.

    Source: Ionides, Truncated Importance Sampling, 2008; in the policy gradient, IMPALA, arXiv 1802.01561, section 4.2.

    logprobs_A:   float[A], log π_θ, with gradient.
    log_ratio_A:  float[A], log r; of π_θ/π_behav, and then the behaviour weight is in it already, or of π_θ/π_prox.
    advantages_A: float[A].
    cap:          the largest weight, > 0.
    """
    log_cap = math.log(cap)
    weight_A = log_ratio_A.clamp(max=log_cap).exp()
    return Surrogate(loss_A=_policy_gradient(logprobs_A, weight_A, advantages_A), clipped_A=log_ratio_A > log_cap)


def topr(
    logprobs_A: Tensor,
    log_ratio_A: Tensor,
    advantages_A: Tensor,
    segment_ids_A: Tensor,
    num_segments: int,
    keep_A: Tensor,
    cap: float = 1.0,
) -> Surrogate:
    """Tapered off-policy REINFORCE: L = −c·A·log π_θ, with c = 1 where A ≥ 0 and else sg(min(r(trajectory), cap)).

    Good actions are learned however unlikely they have become, as in supervised learning; bad ones are pushed away
    only while π_θ still samples their trajectory. r is the product over the trajectory's kept actions.

    Source: Le Roux et al., arXiv 2503.14286, where A is the reward of the trajectory.

    logprobs_A:    float[A], log π_θ, with gradient.
    log_ratio_A:   float[A], log π_θ/π_behav; the behaviour weight is in it already.
    advantages_A:  float[A].
    segment_ids_A: int64[A], the trajectory of each action.
    num_segments:  S.
    keep_A:        bool[A], the actions that count.
    cap:           the largest weight of a bad action, > 0.
    """
    log_r_S = segment_sum(torch.where(keep_A, log_ratio_A, 0.0), segment_ids_A, num_segments)
    log_r_A, log_cap, bad_A = log_r_S[segment_ids_A], math.log(cap), advantages_A < 0
    weight_A = torch.where(bad_A, log_r_A.clamp(max=log_cap).exp(), 1.0)
    return Surrogate(loss_A=_policy_gradient(logprobs_A, weight_A, advantages_A), clipped_A=bad_A & (log_r_A > log_cap))


def reinforce(logprobs_A: Tensor, advantages_A: Tensor) -> Surrogate:
    """The policy gradient as it stands: L = −A·log π_θ.

    Source: Williams, 1992, https://doi.org/10.1007/BF00992696.

    logprobs_A:   float[A], log π_θ, with gradient.
    advantages_A: float[A].
    """
    weight_A = torch.ones_like(logprobs_A)
    return Surrogate(
        loss_A=_policy_gradient(logprobs_A, weight_A, advantages_A),
        clipped_A=torch.zeros_like(logprobs_A, dtype=torch.bool),
    )


def rebel(
    log_u_A: Tensor, advantages_A: Tensor, segment_ids_A: Tensor, num_segments: int, keep_A: Tensor, eta: float
) -> Surrogate:
    """REBEL: L = ((d − d')/η − (A − A'))² for a pair of a group, with d = Σ log u over the actions of a trajectory.

    Regression in place of a policy gradient: the difference of two log-ratios is drawn to that of the rewards, which is
    that of the advantages. Trajectories 0 and 1 are a pair, 2 and 3, and so on; each action bears its pair's loss. A pair
    of which one has no kept action teaches nothing.

    Source: Gao et al., arXiv 2404.16767, equation 4; for images, RLCM's code, which compares sums over a whole batch.

    log_u_A:       float[A], log π_θ/π_prox, with gradient.
    advantages_A:  float[A].
    segment_ids_A: int64[A], the trajectory of each action.
    num_segments:  S, even.
    keep_A:        bool[A], the actions that count.
    eta:           η > 0: the larger, the further from π_prox.
    """
    if num_segments % 2:
        raise ValueError(f"{num_segments} trajectories are no pairs")
    partner_S = torch.arange(num_segments, device=log_u_A.device) ^ 1
    drift_S = segment_sum(torch.where(keep_A, log_u_A, 0.0), segment_ids_A, num_segments)
    advantage_S = segment_mean(advantages_A.detach(), segment_ids_A, num_segments, keep_A)
    has_S = segment_sum(keep_A.float(), segment_ids_A, num_segments) > 0
    error_S = (drift_S - drift_S[partner_S]) / eta - (advantage_S - advantage_S[partner_S])
    loss_S = torch.where(has_S & has_S[partner_S], error_S.square(), 0.0)
    return Surrogate(
        loss_A=torch.where(keep_A, loss_S[segment_ids_A], 0.0), clipped_A=torch.zeros_like(keep_A, dtype=torch.bool)
    )


def _clip(u_A: Tensor, low_A: Tensor | float, high_A: Tensor | float) -> Tensor:
    """float[A], clip(u, 1−ε_lo, 1+ε_hi); in two steps, for one bound may be a number and the other a tensor."""
    return u_A.clamp(min=1.0 - low_A).clamp(max=1.0 + high_A)


def _policy_gradient(logprobs_A: Tensor, weight_A: Tensor, advantages_A: Tensor) -> Tensor:
    """float[A], −sg(weight·A)·log π_θ."""
    return -(weight_A * advantages_A).detach() * logprobs_A
