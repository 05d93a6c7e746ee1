"""A causal language model as the passes see it: from a packed micro-batch to what concerns its actions alone.

Legend: N tokens and A actions of a micro-batch, C actions of a chunk, D the width of the model, V its vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..broker.errors import ModelError
from .decoder import hidden_states, parts_of
from .packing import PackedBatch
from .policy import Scores

MAX_LOGITS = 2**25
"""Logits held at once, in numbers: 128 MiB in float32, 682 rows of a vocabulary of 49,152."""


class PackedLM(nn.Module):
    """Wraps the model of transformers, whose weights it leaves where they are. A call is one pass, and the unit that the
    ranks shard by."""

    def __init__(self, causal_lm: Any, source: str, *, with_values: bool = False) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._parts = parts_of(causal_lm, source)  # in a tuple, which does not count as more modules
        self.value_head = value_head_like(self.head, source) if with_values else None

    @property
    def decoder(self) -> nn.Module:
        return self._parts[0]

    @property
    def head(self) -> nn.Module:
        return self._parts[1]

    def forward(self, batch: PackedBatch, temperature: float) -> Scores:
        """The scores of a micro-batch.

        The logits exist for the actions alone, a chunk at a time; where there are several chunks, the backward pass
        makes each anew rather than keeping all.
        """
        hidden_ND = hidden_states(self.decoder, batch.tokens, batch.positions, batch.cu_lengths)
        hidden_AD = hidden_ND[batch.predict_index]
        values_A = None if self.value_head is None else values_of(self.value_head, hidden_AD)
        rows = max(1, MAX_LOGITS // self.causal_lm.config.vocab_size)
        if batch.num_actions <= rows:
            return Scores(*self._chunk(hidden_AD, batch.action_tokens, temperature), values_A)
        chunks = [
            checkpoint(self._chunk, hidden_CD, actions_C, temperature, use_reentrant=False, preserve_rng_state=False)
            for hidden_CD, actions_C in zip(
                torch.split(hidden_AD, rows), torch.split(batch.action_tokens, rows), strict=True
            )
        ]
        logprobs, entropies = zip(*chunks, strict=True)
        return Scores(torch.cat(logprobs), torch.cat(entropies), values_A)

    def _chunk(self, hidden_CD: Tensor, actions_C: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits_CV = self.head(hidden_CD).float()
        if temperature != 1.0:
            logits_CV = logits_CV / temperature
        logprobs_CV = logits_CV.log_softmax(dim=-1)
        logprobs_C = logprobs_CV.gather(1, actions_C[:, None]).squeeze(1).clone()  # FSDP2 hooks no views
        with torch.no_grad():  # last, because a recomputation stops once it has all that the backward pass needs
            entropies_C = -(logprobs_CV.exp() * logprobs_CV).sum(dim=-1)
        return logprobs_C, entropies_C


def value_head_like(head: nn.Module, source: str) -> nn.Linear:
    """A head that makes one number of each hidden state, which begins by saying 0; raises ModelError."""
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{source}: its output head is a {type(head).__name__}, no linear layer to take a critic from")
    value_head = nn.Linear(head.in_features, 1)
    nn.init.zeros_(value_head.weight)
    nn.init.zeros_(value_head.bias)
    return value_head


def values_of(value_head: nn.Module, hidden_AD: Tensor) -> Tensor:
    """float32[A], the head's numbers."""
    values_A: Tensor = value_head(hidden_AD.float()).squeeze(1)
    return values_A.clone()  # FSDP2 hooks no views
