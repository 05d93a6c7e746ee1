"""Behaviour weights: what becomes of w = π_prox/π_behav, which corrects for the policy that sampled.

Legend: A actions (sampled tokens) of a micro-batch, laid flat; S trajectories, of which `segment_ids_A` int64[A] names
the one an action belongs to. `keep_A` bool[A] is false where an action counts for nothing, whatever its numbers.
Nothing here carries a gradient.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .flat import segment_mean, segment_sum

Level = Literal["token", "sequence", "geometric", "mean"]
Action = Literal["off", "truncate", "mask"]


@dataclass(frozen=True, slots=True)
class Weights:
    """The behaviour weight of each action.

    weight_A:  float[A], 0 where dropped.
    limited_A: bool[A], true where a kept action met the limit: truncated, or masked.
    """

    weight_A: Tensor
    limited_A: Tensor


@torch.no_grad()
def weigh(
    log_w_A: Tensor,
    segment_ids_A: Tensor,
    num_segments: int,
    keep_A: Tensor,
    *,
    level: Level,
    action: Action,
    low: float,
    high: float,
    cap: float | None = None,
) -> Weights:
    """The weight of each action, from a statistic ρ of w and what is done where ρ leaves its bounds.

    level       ρ of an action                      action     its weight
    token       its own w                           off        1
    sequence    Π w over its trajectory             truncate   min(ρ, high)
    geometric   (Π w)^(1/n)                         mask       w if low ≤ ρ ≤ high, else 0
    mean        (Σ w)/n

    over the n kept actions. So truncating gives each action of a trajectory the trajectory's weight, while masking
    takes a trajectory in or leaves it out whole and lets its actions keep their own w, up to `cap`: a trajectory within
    its bounds may have a token far outside them.

    Source: truncated by token, Espeholt et al., arXiv 1802.01561 (TIS); masked by token, IcePop, arXiv 2510.18855;
    by sequence and geometric mean, Liu et al., https://richardli.xyz/rl-collapse (MIS). verl sets a truncation by token
    beside such a mask, too.

    log_w_A:       float[A], log π_prox − log π_behav.
    segment_ids_A: int64[A], the trajectory of each action.
    num_segments:  S.
    keep_A:        bool[A], the actions that count.
    level, action: as in the table.
    low, high:     the bounds, 0 ≤ low ≤ high < ∞; only masking has a lower one.
    cap:           of an action's own w where trajectories are masked, > 0; None for none.
    """
    if not 0.0 <= (low if action == "mask" else 0.0) <= high < math.inf:
        raise ValueError(f"the bounds of the behaviour weight are {low} and {high}, not 0 <= low <= high < inf")
    log_w_A = torch.where(keep_A, log_w_A, 0.0)
    kept_A = keep_A.to(log_w_A.dtype)
    if action == "off":
        return Weights(weight_A=kept_A, limited_A=torch.zeros_like(keep_A))
    rho_A = _statistic(log_w_A, segment_ids_A, num_segments, keep_A, level)
    if action == "truncate":
        return Weights(weight_A=rho_A.clamp(max=high) * kept_A, limited_A=keep_A & (rho_A > high))
    inside_A = (rho_A >= low) & (rho_A <= high)
    own_A, cap = log_w_A.exp(), math.inf if cap is None or level == "token" else cap
    weight_A = torch.where(inside_A, own_A.clamp(max=cap), 0.0) * kept_A
    return Weights(weight_A=weight_A, limited_A=keep_A & (~inside_A | (own_A > cap)))


@torch.no_grad()
def second_moment_mask(log_w_A: Tensor, keep_A: Tensor, threshold: float) -> Tensor:
    """bool[A], what is left of the kept actions once those of largest (log w)² are gone and its mean is ≤ τ.

    As few go as can; all of them if each is above τ. This is AReaL's variant of M2PO: a mask, over every kept action,
    on π_prox/π_behav. The authors' own code bounds π_θ/π_behav, and only where the clip could bite (A > 0 and r > 1,
    or A < 0 and r < 1).

    Source: M2PO, Zheng et al., arXiv 2510.01161, with τ = 0.04.

    log_w_A:   float[A], log π_prox − log π_behav.
    keep_A:    bool[A], the actions that count.
    threshold: τ ≥ 0; the mean is over the actions given here, of a micro-batch if it is one.
    """
    square_A = torch.where(keep_A, log_w_A.double().square(), math.inf)
    ascending_A, order_A = square_A.sort()
    num_A = torch.arange(1, len(order_A) + 1, device=order_A.device)
    mask_A = torch.empty_like(keep_A)
    mask_A[order_A] = ascending_A.cumsum(0) / num_A <= threshold  # means of the smallest: they grow with their number
    return mask_A & keep_A


@torch.no_grad()
def kl_budget_mask(kl_A: Tensor, segment_ids_A: Tensor, num_segments: int, keep_A: Tensor, budget: float) -> Tensor:
    """bool[A], the kept actions of the trajectories with Σ KL ≤ budget.

    The sum, over a trajectory's kept actions, is KL(π_behav‖π_prox) of the trajectory in nats; no term is negative, so
    that longer trajectories spend more. Between Gaussians of one deviation the weights w of trajectories that spend K
    leave an effective sample size of e^(−2K).

    kl_A:          float[A], of each action: in closed form, or Schulman's estimate k3 of w
                   (http://joschu.net/blog/kl-approx.html).
    segment_ids_A: int64[A], the trajectory of each action.
    num_segments:  S.
    keep_A:        bool[A], the actions that count.
    budget:        ≥ 0, for a whole trajectory.
    """
    kl_S = segment_sum(torch.where(keep_A, kl_A, 0.0), segment_ids_A, num_segments)
    return (kl_S <= budget)[segment_ids_A] & keep_A


def _statistic(log_w_A: Tensor, segment_ids_A: Tensor, num_segments: int, keep_A: Tensor, level: Level) -> Tensor:
    """float[A], ρ of `weigh`; log w is 0 where dropped."""
    if level == "token":
        return log_w_A.exp()
    if level == "sequence":
        rho_S = segment_sum(log_w_A, segment_ids_A, num_segments).exp()
    elif level == "geometric":
        rho_S = segment_mean(log_w_A, segment_ids_A, num_segments, keep_A).exp()
    else:
        rho_S = segment_mean(log_w_A.exp(), segment_ids_A, num_segments, keep_A)
    return rho_S[segment_ids_A]
