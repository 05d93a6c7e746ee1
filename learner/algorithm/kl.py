"""Estimators of KL(π_θ‖π_ref) from sampled actions.

Legend: A actions (sampled tokens) of a batch. Throughout, log r = log π_ref − log π_θ of the action, clamped as in
ratio.py; an action beyond the clamp has no gradient.

What is true in expectation holds for actions sampled from π_θ (on policy) and for each action given its prefix. As a
loss an estimator is differentiated at the actions sampled, not through the sampling, so the gradient of an unbiased
estimator need not be the gradient of the KL; nor does it count how an action changes the prefixes of those after it.

Source: the estimators are of http://joschu.net/blog/kl-approx.html; their gradients are studied in arXiv 2506.09477
and 2510.01555.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .ratio import MAX_LOG_RATIO


def k1(logprobs_A: Tensor, ref_logprobs_A: Tensor) -> Tensor:
    """float32[A], −log r: unbiased, of either sign. For a reward, never a loss.

    E[∇k1] = E[∇log π_θ] = 0: as a loss it is noise alone. Subtracted from the reward, detached, it descends
    KL(π_θ‖π_ref), prefixes included.

    logprobs_A:     float[A], log π_θ, with gradient.
    ref_logprobs_A: float[A], log π_ref; detached here.
    """
    return -_log_ratio(logprobs_A, ref_logprobs_A)


def k2(logprobs_A: Tensor, ref_logprobs_A: Tensor) -> Tensor:
    """float32[A], (log r)² / 2: biased and never negative; as a loss, the right one.

    E[∇k2] = E[−log r · ∇log π_θ] = ∇KL(π_θ‖π_ref), without bias, though the value has one of third order in log r.

    logprobs_A:     float[A], log π_θ, with gradient.
    ref_logprobs_A: float[A], log π_ref; detached here.
    """
    return _log_ratio(logprobs_A, ref_logprobs_A).square() / 2


def k3(logprobs_A: Tensor, ref_logprobs_A: Tensor) -> Tensor:
    """float32[A], r − 1 − log r: unbiased and never negative; the best to report, and the loss of GRPO.

    E[∇k3] = E[(1 − r) · ∇log π_θ] = ∇KL(π_ref‖π_θ), the KL the other way round: to first order in log r it agrees
    with ∇KL(π_θ‖π_ref), further off it is biased, and r has no upper bound but the clamp's.

    logprobs_A:     float[A], log π_θ, with gradient.
    ref_logprobs_A: float[A], log π_ref; detached here.
    """
    log_r_A = _log_ratio(logprobs_A, ref_logprobs_A)
    return torch.expm1(log_r_A) - log_r_A


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def _log_ratio(logprobs_A: Tensor, ref_logprobs_A: Tensor) -> Tensor:
    """float32[A], log r, clamped."""
    if logprobs_A.ndim != 1 or logprobs_A.shape != ref_logprobs_A.shape:
        raise ValueError(
            f"logprobs {list(logprobs_A.shape)} and ref logprobs {list(ref_logprobs_A.shape)} are not both [A]"
        )
    return (ref_logprobs_A.detach().float() - logprobs_A.float()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
