"""Shaping: what is done to the rewards before they become advantages.

Legend: S trajectories of a batch, each with one reward.
"""

from torch import Tensor


def shaped(rewards_S: Tensor, *, scale: float, bias: float, clip: float | None) -> Tensor:
    """float32[S], the reward shifted, scaled and clipped: clamp((r + bias) · scale, −clip, clip).

    Source: the order of operations is AReaL's, areal/trainer/ppo/actor.py.

    rewards_S: float32[S].
    clip:      the largest magnitude that leaves, positive; None leaves all.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}, neither positive nor None")
    shaped_S = (rewards_S.float() + bias) * scale
    return shaped_S if clip is None else shaped_S.clamp(-clip, clip)


def overlong_penalty(lengths_S: Tensor, *, max_length: int, buffer: int, factor: float) -> Tensor:
    """float32[S], to be added to the rewards: −factor · clamp((|y| − (max_length − buffer)) / buffer, 0, 1).

    0 up to max_length − buffer, then falling linearly to −factor at max_length, and −factor beyond.

    Source: soft overlong punishment, DAPO, arXiv 2503.14476, eq. 13, where factor is 1.

    lengths_S:  int64[S], |y|, the sampled tokens of each trajectory.
    max_length: tokens at which the whole penalty falls due.
    buffer:     tokens over which it grows, from 1 to max_length.
    """
    if not 1 <= buffer <= max_length:
        raise ValueError(f"buffer is {buffer}, not from 1 to max_length = {max_length}")
    excess_S = (lengths_S - (max_length - buffer)) / buffer
    return -factor * excess_S.clamp(0.0, 1.0).float()
