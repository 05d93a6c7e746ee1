"""Ratios of probabilities, as logarithms that neither overflow nor leak.

Legend: A actions.
"""

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ± this before exp (as in verl): e²⁰ ≈ 5·10⁸ is far past any clip, and nothing overflows."""


def log_ratio(log_p_A: Tensor, log_q_A: Tensor, keep_A: Tensor) -> Tensor:
    """float32[A], log p/q, clamped; 0 without gradient where dropped, so that not even a NaN there leaks."""
    difference_A = log_p_A.float() - log_q_A.float()
    return torch.where(keep_A, difference_A, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
