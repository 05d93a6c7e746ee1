"""The reference policy: where training began, for the KL term."""

from typing import Any

import torch
from torch import Tensor

from .config import ModelConfig
from .policy import Policy, Scorer
from .ranks import ALONE, Ranks
from .token_policy import TokenPolicy


def reference_of(
    policy: Policy, config: ModelConfig, device: torch.device | str = "cpu", ranks: Ranks = ALONE
) -> Scorer:
    """π_ref: the trained policy without its adapter, or without LoRA a frozen copy of the model it began from."""
    if config.lora is not None:
        return WithoutAdapter(policy)
    copy = TokenPolicy(config.path, config, device, ranks=ranks)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


class WithoutAdapter:
    """A policy as it is without its adapter."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def logprobs(self, batch: Any, temperature: float) -> Tensor:
        """float32[A], log π_ref of each action."""
        with self._policy.adapter_off():
            return self._policy.logprobs(batch, temperature)
