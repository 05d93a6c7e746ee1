from pathlib import Path

import torch

from areal.denoising.mlp import ConsistencyMlp


def moved(in_channels: int = 2) -> ConsistencyMlp:
    """One whose weights are no longer those that leave everything as it is."""
    torch.manual_seed(0)
    network = ConsistencyMlp(sample_size=4, in_channels=in_channels, num_class_embeds=3, width=32, depth=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def said(network: ConsistencyMlp, time: int = 500, label: int = 1) -> torch.Tensor:
    sample = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.full((5,), label)
    with torch.no_grad():
        return network(sample, torch.tensor([time]), class_labels=labels, return_dict=False)[0]


def test_what_it_says_depends_on_time_and_class() -> None:
    network = moved()
    assert said(network).shape == (5, 2, 4, 4)
    assert not torch.allclose(said(network), said(network, time=10))
    assert not torch.allclose(said(network), said(network, label=2))


def test_an_untrained_one_says_nothing() -> None:
    assert said(ConsistencyMlp(sample_size=4, in_channels=2, width=32)).count_nonzero() == 0


def test_it_is_saved_as_diffusers_saves_models(tmp_path: Path) -> None:
    network = moved()
    network.save_pretrained(tmp_path)
    again = ConsistencyMlp.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(said(again), said(network))
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
