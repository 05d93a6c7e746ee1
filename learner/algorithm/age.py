"""Age: what the loss does about tokens that older weights sampled.

Legend: A actions (sampled tokens) of a micro-batch, laid flat; S trajectories, of which `segment_ids_A` int64[A] names
the one an action belongs to. A token's age is the version of the weights its batch was taken with, less its own.
"""

from typing import Literal

import torch
from torch import Tensor

from .flat import segment_sum

Law = Literal["none", "inverse", "sqrt", "exponential"]
Rule = Literal["keep", "mask", "drop"]


def clip_scale(age_A: Tensor, law: Law, rate: float) -> Tensor:
    """float32[A] in (0, 1], the factor on a token's clip range: the older it is, the less π_θ may move from it.

    none: 1; inverse: 1/(1 + rate·age); sqrt: 1/√(1 + rate·age); exponential: exp(−rate·age). 1 at age 0 and below.

    age_A: int64[A], in versions.
    law:   as above.
    rate:  ≥ 0, per version.
    """
    decay_A = rate * age_A.clamp(min=0).float()
    if law == "inverse":
        return 1.0 / (1.0 + decay_A)
    if law == "sqrt":
        return (1.0 + decay_A).rsqrt()
    if law == "exponential":
        return torch.exp(-decay_A)
    return torch.ones_like(decay_A)


@torch.no_grad()
def interpolated_prox(
    logprobs_A: Tensor, behaviour_logprobs_A: Tensor, versions_A: Tensor, *, version: int, progress: float
) -> Tensor:
    """float[A], log π_prox without a forward pass: log π_behav + a·(log π_θ − log π_behav), detached.

    a = (v − v_b) / (v + progress − v_b) is how far from π_behav to π_θ the proximal policy lies, counted in versions:
    0 for a token of the proximal policy itself, towards 1 with age, and 1 for all while π_θ is still π_prox.

    π_prox are the weights the batch was taken with, so v is their version and π_θ is at v + progress. Counting π_prox
    as v − 1 and π_θ as v (AReaL's code) takes the weights before the update for those after it: a token that π_prox
    sampled gets a denominator of 0, and every other token a centre one version too old.

    Source: AReaL's loglinear method; A-3PO, arXiv 2512.06547.

    logprobs_A:           float[A], log π_θ.
    behaviour_logprobs_A: float[A], log π_behav, as sampled.
    versions_A:           int64[A], v_b, what sampled each token; one above v counts as v.
    version:              v, of the weights when the batch was taken.
    progress:             how far π_θ has come since, in versions: k/K after k of a batch's K minibatch updates.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is {progress}, not between 0 and 1")
    if progress == 0.0:
        return logprobs_A.detach()
    age_A = (version - versions_A).clamp(min=0).to(logprobs_A.dtype)
    return torch.lerp(behaviour_logprobs_A.to(logprobs_A.dtype), logprobs_A, age_A / (age_A + progress))


def old_mask(age_A: Tensor, segment_ids_A: Tensor, num_segments: int, *, bound: int, rule: Rule) -> Tensor:
    """bool[A], the tokens that stay when those older than the bound are to go.

    keep: all stay; mask: a token older than the bound goes; drop: so does the whole trajectory of one.

    age_A:         int64[A], in versions.
    segment_ids_A: int64[A], the trajectory of each token.
    num_segments:  S.
    bound:         the largest age that is not too old.
    rule:          as above.
    """
    young_A = age_A <= bound
    if rule == "mask":
        return young_A
    if rule == "drop":
        return (segment_sum((~young_A).long(), segment_ids_A, num_segments) == 0)[segment_ids_A]
    return torch.ones_like(young_A)
