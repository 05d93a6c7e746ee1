"""The reference policy: where training began, for the KL term."""

import torch
from torch import Tensor

from .config import ModelConfig
from .packing import PackedBatch
from .policy import Scorer, TokenPolicy
from .ranks import ALONE, Ranks


def reference_of(
    policy: TokenPolicy, config: ModelConfig, device: torch.device | str = "cpu", ranks: Ranks = ALONE
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

    def __init__(self, policy: TokenPolicy) -> None:
        self._policy = policy

    def logprobs(self, batch: PackedBatch, temperature: float) -> Tensor:
        """float32[A], log π_ref of each action."""
        with self._policy.adapter_off():
            return self._policy.logprobs(batch, temperature)
