"""Objectives: what an optimiser step descends, put together from a surrogate, a behaviour weight and a mean.

    L = Σ_a weight_a · w_a · surrogate_a  +  β · Σ_a weight_a · KL_a

Legend: A actions (sampled tokens, or denoising steps) of a micro-batch, in any order; S trajectories that they are of.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..config import StalenessConfig
from . import surrogate
from .age import clip_scale
from .behaviour import kl_budget_mask, weigh
from .config import (
    AlgorithmConfig,
    Cispo,
    Gspo,
    KlConfig,
    M2po,
    ObjectiveConfig,
    Ppo,
    Rebel,
    Reinforce,
    Sapo,
    Topr,
    TruncatedIs,
)
from .kl import ESTIMATORS, k3
from .ratio import log_ratio
from .surrogate import Surrogate


@dataclass(frozen=True, slots=True)
class Actions:
    """What is known of the actions of a micro-batch before its pass.

    prox_logprobs_A      float[A], log π_prox; None where it is the current policy
    behaviour_logprobs_A float[A], log π_behav, as sampled
    reference_logprobs_A float[A], log π_ref; None without a KL term
    advantages_A         float[A]
    keep_A               bool[A], false where an action counts for nothing (too old, say), whatever its numbers
    weight_A             float[A], of the action in the mean that the loss is (aggregate.py)
    age_A                int64[A], versions between the sampling of the action and the step
    segment_ids_A        int64[A], which of the S trajectories it is of
    """

    prox_logprobs_A: Tensor | None
    behaviour_logprobs_A: Tensor
    reference_logprobs_A: Tensor | None
    advantages_A: Tensor
    keep_A: Tensor
    weight_A: Tensor
    age_A: Tensor
    segment_ids_A: Tensor
    num_segments: int

    def at(self, index_M: Tensor, segment_ids_M: Tensor, num_segments: int) -> "Actions":
        """Those of a micro-batch: at these places, of trajectories that it numbers in its own way."""
        tensors = {name: tensor[index_M] for name, tensor in self.tensors().items()}
        return replace(self, **tensors | {"segment_ids_A": segment_ids_M, "num_segments": num_segments})

    def to(self, device: torch.device) -> "Actions":
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Any]:
        """The tensors by name, without those that are None."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """What a pass finds of actions that Gaussians drew, as those of an image policy, where others must estimate.

    behaviour_kl_A: float[A], KL(π_behav‖π_θ) of each action.
    reference_kl_A: float[A], KL(π_θ‖π_ref) of each, with gradient; None unless the KL term asks for it.
    clip_scale_A:   float[A], what the clip range of each is multiplied by.
    """

    behaviour_kl_A: Tensor
    reference_kl_A: Tensor | None
    clip_scale_A: Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss and what is known about it.

    Everything is a scalar tensor and a sum, so that micro-batches add up to their batch. All but `loss` are detached
    sums over the kept actions; divide by `num_kept` for means. `num_clipped` counts the actions whose gradient the
    surrogate cut off, `num_limited` those whose behaviour weight met its bound, `num_masked` those that a rule on the
    distance between the policies left out. `behaviour_weight` and its square are of w = π_prox/π_behav before any bound;
    its effective sample size is (Σw)²/Σw². The KL sums hold Schulman's k3 estimator, r − 1 − log r ≥ 0 with
    r = π_prox/π_behav for KL(π_behav‖π_prox), r = π_θ/π_prox for KL(π_prox‖π_θ), and the estimator chosen for
    KL(π_θ‖π_ref); the actions come from π_behav, so all but the first are approximate while the policies differ. Of
    Gaussian actions the first is exact, with π_θ in the place of π_prox.
    """

    loss: Tensor
    num_kept: Tensor
    num_clipped: Tensor
    num_limited: Tensor
    num_masked: Tensor
    behaviour_weight: Tensor
    behaviour_weight_squared: Tensor
    kl_behaviour_prox: Tensor
    kl_prox_theta: Tensor
    kl_reference: Tensor


@dataclass(frozen=True, slots=True)
class Ratios:
    """log π_θ and log u = log π_θ/π_prox, with gradient; log w = log π_prox/π_behav; 0 where `keep_A` is false.

    clip_scale_A: float[A], the factor on the clip range: what the age of an action leaves of it, and what a closed form
                  says.
    """

    logprobs_A: Tensor
    log_u_A: Tensor
    log_w_A: Tensor
    keep_A: Tensor
    clip_scale_A: Tensor

    def clip(self, config: Ppo | Gspo | Cispo | M2po) -> tuple[Tensor, Tensor]:
        """float[A] each, how far below and above 1 the ratio may go; where there is no bound below, age makes none."""
        if isinstance(config, Ppo) and config.clip_in == "nats":
            return -torch.expm1(-config.clip_low * self.clip_scale_A), torch.expm1(config.clip_high * self.clip_scale_A)
        unbounded = config.clip_low >= 1
        low_A = torch.ones_like(self.clip_scale_A) if unbounded else config.clip_low * self.clip_scale_A
        return low_A, config.clip_high * self.clip_scale_A


def objective(
    logprobs_A: Tensor,
    known: Actions,
    config: AlgorithmConfig,
    staleness: StalenessConfig,
    closed: ClosedForm | None = None,
) -> Objective:
    """The loss of a micro-batch, and its sums.

    u = π_θ/π_prox carries the gradient and is clipped around the proximal policy; w = π_prox/π_behav is detached and
    corrects for the policy that sampled. With the surrogate ppo this is decoupled PPO: L = −E[w·min(u·A, clip(u)·A)].

    Source: AReaL, arXiv 2505.24298, eq. 5; the decoupling is Hilton et al., arXiv 2110.00641, section 3.

    logprobs_A: float[A], log π_θ, with gradient.
    known:      the rest that is known of each action.
    config:     the surrogate, what becomes of the behaviour weight, and the KL term.
    staleness:  the KL budget, and the law by which the clip range shrinks with age.
    closed:     what is known exactly, of Gaussian actions.
    """
    _check(logprobs_A, known)
    prox_A = logprobs_A.detach() if known.prox_logprobs_A is None else known.prox_logprobs_A.detach()
    log_w_A = log_ratio(prox_A, known.behaviour_logprobs_A.detach(), known.keep_A)
    keep_A = known.keep_A
    spent_A = k3(torch.zeros_like(log_w_A), log_w_A) if closed is None else closed.behaviour_kl_A
    if staleness.kl_budget is not None:
        keep_A = kl_budget_mask(spent_A, known.segment_ids_A, known.num_segments, keep_A, staleness.kl_budget)
    logprobs_A = torch.where(keep_A, logprobs_A.float(), 0.0)
    log_u_A = log_ratio(logprobs_A, prox_A, keep_A)
    behaviour, segments = config.behaviour, (known.segment_ids_A, known.num_segments)
    weights = weigh(
        log_w_A,
        *segments,
        keep_A,
        level=behaviour.level,
        action=behaviour.action,
        low=behaviour.low,
        high=behaviour.high,
        cap=behaviour.cap,
    )
    scale_A = clip_scale(known.age_A, staleness.clip_law, staleness.clip_rate)
    if closed is not None:
        scale_A = scale_A * closed.clip_scale_A
    ratios = Ratios(logprobs_A, log_u_A, log_w_A, keep_A, scale_A)
    found = surrogate_of(ratios, known, config.objective)
    weight_A = torch.where(keep_A, known.weight_A.float(), 0.0)
    loss = (weight_A * weights.weight_A * found.loss_A).sum()
    kl_A = _to_reference(logprobs_A, known, keep_A, config.kl, closed)
    if config.kl.coefficient > 0 and config.kl.where == "loss":
        loss = loss + config.kl.coefficient * (weight_A * kl_A).sum()
    return _summed(loss, ratios, known, found.clipped_A, weights.limited_A, spent_A, kl_A)


def _to_reference(
    logprobs_A: Tensor, known: Actions, keep_A: Tensor, config: KlConfig, closed: ClosedForm | None
) -> Tensor:
    """float[A], KL(π_θ‖π_ref) of each action, with gradient; 0 where dropped, and where there is no reference."""
    if config.estimator == "exact":
        exact_A = None if closed is None else closed.reference_kl_A
        return torch.zeros_like(logprobs_A) if exact_A is None else torch.where(keep_A, exact_A, 0.0)
    if known.reference_logprobs_A is None:
        return torch.zeros_like(logprobs_A)
    reference_A = torch.where(keep_A, known.reference_logprobs_A.detach().float(), 0.0)
    return ESTIMATORS[config.estimator](logprobs_A, reference_A)


def surrogate_of(ratios: Ratios, known: Actions, config: ObjectiveConfig) -> Surrogate:
    """The surrogate that the configuration names."""
    advantages_A = torch.where(ratios.keep_A, known.advantages_A.float(), 0.0)
    segments = (known.segment_ids_A, known.num_segments, ratios.keep_A)
    match config:
        case Ppo(dual_clip=None) | M2po():
            return surrogate.ppo_clip(ratios.log_u_A, advantages_A, *ratios.clip(config))
        case Ppo(dual_clip=float(bound)):
            return surrogate.dual_clip(ratios.log_u_A, advantages_A, *ratios.clip(config), bound)
        case Gspo():
            log_s_A = surrogate.sequence_ratio(ratios.log_u_A, *segments)
            return surrogate.ppo_clip(log_s_A, advantages_A, *ratios.clip(config))
        case Cispo():
            return surrogate.cispo(ratios.logprobs_A, ratios.log_u_A, advantages_A, *ratios.clip(config))
        case Sapo():
            return surrogate.sapo(ratios.log_u_A, advantages_A, config.tau_positive, config.tau_negative)
        case Topr():
            log_r_A = ratios.log_u_A + ratios.log_w_A
            return surrogate.topr(ratios.logprobs_A, log_r_A, advantages_A, *segments, config.cap)
        case TruncatedIs():
            log_r_A = ratios.log_u_A + ratios.log_w_A
            return surrogate.truncated_is(ratios.logprobs_A, log_r_A, advantages_A, config.cap)
        case Rebel():
            return surrogate.rebel(ratios.log_u_A, advantages_A, *segments, config.eta)
        case Reinforce():
            return surrogate.reinforce(ratios.logprobs_A, advantages_A)
    raise ValueError(f"there is no objective {config!r}")


def _summed(
    loss: Tensor,
    ratios: Ratios,
    known: Actions,
    clipped_A: Tensor,
    limited_A: Tensor,
    spent_A: Tensor,
    kl_A: Tensor,
) -> Objective:
    with torch.no_grad():  # dropped actions have log-ratio 0: they add nothing but w = 1
        w_A = ratios.log_w_A.exp() * known.keep_A
        return Objective(
            loss=loss,
            num_kept=known.keep_A.float().sum(),
            num_clipped=(clipped_A & ratios.keep_A).float().sum(),
            num_limited=(limited_A & ratios.keep_A).float().sum(),
            num_masked=(known.keep_A & ~ratios.keep_A).float().sum(),
            behaviour_weight=w_A.sum(),
            behaviour_weight_squared=w_A.square().sum(),
            kl_behaviour_prox=torch.where(known.keep_A, spent_A, 0.0).sum(),
            kl_prox_theta=k3(torch.zeros_like(w_A), ratios.log_u_A).sum(),
            kl_reference=(kl_A * ratios.keep_A).sum(),
        )


def _check(logprobs_A: Tensor, known: Actions) -> None:
    for name, tensor in known.tensors().items():
        if logprobs_A.ndim != 1 or tensor.shape != logprobs_A.shape:
            raise ValueError(f"logprobs {list(logprobs_A.shape)} and {name} {list(tensor.shape)} are not both [A]")
    if known.keep_A.dtype != torch.bool:
        raise ValueError(f"keep is {known.keep_A.dtype}, not bool")
