from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from areal.broker.errors import ModelError
from areal.denoising.adapter import Adapter

from .test_mlp import moved, said

LAYERS = ("linear_1", "linear_2", "modulation")


def adapted(network: Any, *, rank: int = 4) -> Adapter:
    torch.manual_seed(1)
    return Adapter(network, rank=rank, alpha=3 * rank, targets=LAYERS)


def trained(adapter: Adapter) -> None:
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def test_it_begins_by_changing_nothing_and_can_be_switched_off() -> None:
    network, bare = moved(), said(moved())
    adapter = adapted(network)
    assert torch.equal(said(network), bare)
    trained(adapter)
    assert not torch.allclose(said(network), bare)
    changed = said(network)
    with adapter.off():
        assert torch.equal(said(network), bare)
    assert torch.equal(said(network), changed)


def test_it_alone_is_trained_in_float32() -> None:
    """A and B of three layers in each block, and of the two for the time that bear such names too."""
    network = moved().to(torch.bfloat16)
    adapter = adapted(network)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert (
        sum(parameter.requires_grad for parameter in network.parameters())
        == len(adapter.parameters())
        == 2 * (2 * 3 + 2)
    )


def test_its_weights_make_another_network_the_same() -> None:
    network, other = moved(), moved()
    adapter, copy = adapted(network), adapted(other)
    trained(adapter)
    copy.load({name: tensor.clone() for name, tensor in adapter.weights().items()})
    assert torch.equal(said(network), said(other))
    with pytest.raises(ModelError, match=r"do not fit the network.*model.lora"):
        copy.load(adapted(moved(), rank=2).weights())


def test_rank_and_alpha_survive_on_the_disk(tmp_path: Path) -> None:
    network, other = moved(), moved()
    adapter = adapted(network)
    trained(adapter)
    adapter.save(tmp_path)
    other.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    assert (said(network) - said(other)).abs().max() == 0


def test_another_adapter_stays_on_while_this_is_trained_and_off() -> None:
    """As the LoRA that makes a consistency model of a diffusion model."""
    network = moved()
    network.add_adapter(LoraConfig(r=2, target_modules=["linear_1"], init_lora_weights=False), adapter_name="lcm")
    before = said(network)
    assert not torch.allclose(before, said(moved()))
    adapter = adapted(network)
    assert torch.equal(said(network), before)
    trained(adapter)
    assert all(".lcm." not in name for name, parameter in network.named_parameters() if parameter.requires_grad)
    with adapter.off():
        assert torch.equal(said(network), before)
    assert not torch.allclose(said(network), before)


def test_layers_that_are_not_there_are_named() -> None:
    with pytest.raises(ModelError, match=r"no layer of the network ends in to_q, to_k \(model.lora.targets\)"):
        Adapter(moved(), rank=2, alpha=4, targets=["to_q", "to_k"])
