import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from areal.broker.errors import ModelError
from areal.denoising.adapter import Adapter

from .test_mlp import moved, said
from .tiny import latent_consistency_pipeline

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
    wanted = r"no layer of the network ends in to_q, to_k \(model.lora.targets\); there are .*modulation"
    with pytest.raises(ModelError, match=wanted):
        Adapter(moved(), rank=2, alpha=4, targets=["to_q", "to_k"])


def told(network: Any) -> torch.Tensor:
    """What a small UNet says of one input."""
    generator = torch.Generator().manual_seed(0)
    dtype = next(network.parameters()).dtype
    latents, tokens = (torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 4, 8, 8), (2, 12, 16)))
    with torch.no_grad():
        output: torch.Tensor = network(latents, 500, encoder_hidden_states=tokens, return_dict=False)[0]
    return output


def unet() -> Any:
    return latent_consistency_pipeline().unet.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", ["attention", "all-linear", ["to_q", "conv1", "conv2", "conv_shortcut"]])
def test_diffusers_loads_what_was_saved_to_the_last_bit(
    targets: str | list[str], dtype: torch.dtype, tmp_path: Path
) -> None:
    network, other = unet().to(dtype), unet().to(dtype)
    bare = told(network)
    torch.manual_seed(1)
    adapter = Adapter(network, rank=4, alpha=12, targets=targets)
    assert torch.equal(told(network), bare)
    trained(adapter)
    for parameter in adapter.parameters():
        parameter.data = parameter.data.to(dtype).float()  # diffusers loads it in the type of the network
    adapter.save(tmp_path)
    other.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    for name, parameter in other.named_parameters():
        parameter.data = parameter.data.float() if "lora" in name else parameter.data
    assert not torch.allclose(told(network), bare)
    assert (told(network) - told(other)).abs().max() == 0


def test_attention_is_four_layers_of_each_block_and_all_linear_is_more() -> None:
    attention, linear = unet(), unet()
    of_attention = Adapter(attention, rank=2, alpha=4, targets="attention").weights()
    assert {name.rpartition(".lora_")[0].rpartition("attn")[2][2:] for name in of_attention} == {
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    }
    of_linear = Adapter(linear, rank=2, alpha=4, targets="all-linear").weights()
    assert of_attention.keys() < of_linear.keys() and any("time_emb_proj" in name for name in of_linear)


def test_a_worker_takes_over_what_was_published(tmp_path: Path) -> None:
    network, other = unet(), unet()
    adapter, copy = (Adapter(each, rank=4, alpha=12, targets="attention") for each in (network, other))
    trained(adapter)
    save_file(adapter.weights(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter.config()))
    copy.load_folder(tmp_path)
    assert (told(network) - told(other)).abs().max() == 0
    with pytest.raises(ModelError, match=r"is an adapter of lora_alpha 12, not 4 \(model.lora\)"):
        Adapter(unet(), rank=4, alpha=4, targets="attention").load_folder(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="is no adapter that can be read"):
        copy.load_folder(tmp_path)


def test_off_leaves_a_consistency_lora_on_through_a_second_adapter_on_the_same_layers() -> None:
    network = unet()
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "conv1"], init_lora_weights=False), adapter_name="lcm")
    consistent = told(network)
    assert not torch.allclose(consistent, told(unet()))
    adapter = Adapter(network, rank=2, alpha=4, targets=["to_q", "conv1"])
    trained(adapter)
    with adapter.off():
        assert torch.equal(told(network), consistent)
        assert {name.split(".")[-2] for name, each in network.named_parameters() if each.requires_grad} == {"rl"}
    assert not torch.allclose(told(network), consistent)
    assert {name.split(".")[-2] for name, each in network.named_parameters() if each.requires_grad} == {"rl"}
