"""The adapter that is trained beside a network which stays as it is; other adapters that the network has stay on.

A LoRA by peft, saved as diffusers saves one, with its rank and alpha: without these a loader takes alpha for the rank.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import Parameter

from ..broker.errors import ModelError

NAME = "rl"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
SCALING = ("r", "lora_alpha", "use_rslora", "use_dora")
"""What two adapters must have in common to be the same function of the same tensors."""


class Adapter:
    """The trained adapter of a network of diffusers. It begins by changing nothing; seed torch before."""

    def __init__(self, network: Any, *, rank: int, alpha: float, targets: Sequence[str] | str) -> None:
        """`targets` end the names of the layers that it goes on, convolutions too; or are "all-linear", or "attention".

        Raises ModelError if there are none.
        """
        self._network = network
        self._others = list(network.active_adapters()) if getattr(network, "_hf_peft_config_loaded", False) else []
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=_chosen(network, targets), init_lora_weights="gaussian"
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is wanted
                network.add_adapter(config, adapter_name=NAME)
        except ValueError as error:
            raise ModelError(f"no adapter goes on these layers (model.lora.targets): {error}") from error
        self._switch_on()
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    def parameters(self) -> list[Parameter]:
        """Those that are trained, in float32."""
        return [parameter for parameter in self._network.parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """The adapter's own tensors, by their names in peft."""
        found: dict[str, Tensor] = get_peft_model_state_dict(self._network, adapter_name=NAME)
        return found

    def config(self) -> dict[str, Any]:
        """What stands in PEFT's adapter_config.json, JSON values alone."""
        config = self._network.peft_config[NAME].to_dict() | {"inference_mode": True}
        return dict(json.loads(json.dumps(config, default=sorted)))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `weights` gave; raises ModelError if they are of another adapter."""
        own = self.weights()
        odd = sorted(own.keys() ^ weights.keys()) or sorted(
            name for name in own if own[name].shape != weights[name].shape
        )
        if odd:
            raise ModelError(f"the adapter's weights do not fit the network: {odd[0]!r} (model.lora)")
        set_peft_model_state_dict(self._network, dict(weights), adapter_name=NAME)

    def load_folder(self, folder: Path) -> None:
        """Take over `weights` and `config` of another process, from adapter_model.safetensors and adapter_config.json.

        Raises ModelError if they are of another adapter, or cannot be read.
        """
        try:
            given = json.loads((folder / "adapter_config.json").read_text())
            weights = load_file(folder / "adapter_model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(f"{folder} is no adapter that can be read: {error}") from error
        own = self.config()
        for key in SCALING:
            if given.get(key, False) != own[key]:
                raise ModelError(f"{folder} is an adapter of {key} {given.get(key)}, not {own[key]} (model.lora)")
        self.load(weights)

    @contextmanager
    def off(self) -> Iterator[None]:
        """While this lasts, the network is what it was without the adapter: the reference, with other adapters on."""
        if self._others:
            self._network.set_adapters(self._others)
        else:
            self._network.disable_adapters()
        self._train_own()
        try:
            yield
        finally:
            self._network.enable_adapters()
            self._switch_on()

    def save(self, folder: Path) -> None:
        """Write it as diffusers loads it (`load_lora_adapter(folder, prefix=None)`), rank and alpha with it."""
        self._network.save_lora_adapter(folder, adapter_name=NAME)

    def _switch_on(self) -> None:
        self._network.set_adapters([*self._others, NAME])
        self._train_own()

    def _train_own(self) -> None:
        """Whatever peft switches on or off, it sets to be trained or not."""
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(f".{NAME}." in name)


def _chosen(network: nn.Module, targets: Sequence[str] | str) -> list[str]:
    """Names that layers end in, or of layers, as peft is told them; raises ModelError if no layer fits."""
    layers = _layers(network)
    if targets == "all-linear":
        chosen = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    else:
        chosen = list(ATTENTION) if targets == "attention" else [targets] if isinstance(targets, str) else list(targets)
    if not any(f".{name}".endswith(f".{end}") for name in layers for end in chosen):
        wanted = targets if isinstance(targets, str) else ", ".join(targets)
        endings = Counter(_ending(name) for name in layers)
        raise ModelError(
            f"no layer of the network ends in {wanted} (model.lora.targets); there are "
            f"{', '.join(ending for ending, _ in endings.most_common(12))}"
        )
    return chosen


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that an adapter can go on, by their names without adapters."""
    adapted = {name: layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)}
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and not any(name.startswith(f"{other}.") for other in adapted)
    }
    return layers | {name: layer.get_base_layer() for name, layer in adapted.items()}


def _ending(name: str) -> str:
    """The last part of a layer's name, with the one before if it is a number."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])
