"""Causal language models in Hugging Face format, run over packed segments.

Legend: N tokens of a micro-batch, D the width of the model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from ..broker.errors import ModelError
from .attention import PACKED, Segments


def load_causal_lm(source: str, dtype: str) -> Any:
    """The model at a folder or hub id, with packed attention; raises ModelError."""
    try:
        causal_lm, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), attn_implementation=PACKED, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {source} as a causal language model: {error}") from error
    if report["missing_keys"]:
        raise ModelError(f"{source} lacks weights: {min(report['missing_keys'])!r} is one")
    return causal_lm


def parts_of(causal_lm: Any, source: str) -> tuple[Module, Module]:
    """The decoder, and the head that turns its hidden states into logits."""
    decoder, head = causal_lm.get_decoder(), causal_lm.get_output_embeddings()
    if not isinstance(decoder, Module) or decoder is causal_lm or not isinstance(head, Module):
        raise ModelError(f"{source} ({type(causal_lm).__name__}) is not a decoder with an output head")
    return decoder, head


def hidden_states(decoder: Module, tokens_N: Tensor, positions_N: Tensor, cu_lengths: Tensor) -> Tensor:
    """[N, D], the decoder's last hidden states of segments laid end to end; see PackedBatch."""
    output = decoder(
        input_ids=tokens_N[None],
        position_ids=positions_N[None],
        segments=Segments.of(cu_lengths),
        use_cache=False,
    )
    hidden_1ND: Tensor = output.last_hidden_state
    return hidden_1ND[0]


def layers_of(decoder: Module) -> list[Module]:
    """The layers of a decoder, which are gathered one at a time where it is sharded."""
    names = set(getattr(decoder, "_no_split_modules", None) or ())
    return [module for module in decoder.modules() if type(module).__name__ in names]


def compile_layers(decoder: Module) -> None:
    """Has torch.compile make one program of what a layer does on either side of its attention, for any length."""
    for layer in layers_of(decoder):
        layer.compile(dynamic=True)


def checkpoint_layers(causal_lm: Any, source: str) -> None:
    """Has each layer make its activations anew in the backward pass; raises ModelError where a model cannot."""
    if not causal_lm.supports_gradient_checkpointing:
        raise ModelError(f"{source} ({type(causal_lm).__name__}) cannot do without its activations")
    causal_lm.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    for module in causal_lm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # it asks for this; the modules in it stay in evaluation mode
