"""The adapter that is trained beside a network which stays as it is; other adapters that the network has stay on.

A LoRA by peft, saved as diffusers saves one, with its rank and alpha: without these a loader takes alpha for the rank.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.nn import Parameter

from ..broker.errors import ModelError

NAME = "rl"


class Adapter:
    """The trained adapter of a network of diffusers. It begins by changing nothing; seed torch before."""

    def __init__(self, network: Any, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
        """`targets` end the names of the layers that it goes on. Raises ModelError if there are none."""
        self._network = network
        self._others = list(network.active_adapters()) if getattr(network, "_hf_peft_config_loaded", False) else []
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is wanted
                network.add_adapter(config, adapter_name=NAME)
        except ValueError as error:
            raise ModelError(
                f"no layer of the network ends in {', '.join(targets)} (model.lora.targets): {error}"
            ) from error
        network.set_adapters([*self._others, NAME])
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(f".{NAME}." in name)
            if f".{NAME}." in name:
                parameter.data = parameter.data.float()

    def parameters(self) -> list[Parameter]:
        """Those that are trained, in float32."""
        return [parameter for parameter in self._network.parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """The adapter's own tensors, by their names in peft."""
        found: dict[str, Tensor] = get_peft_model_state_dict(self._network, adapter_name=NAME)
        return found

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `weights` gave; raises ModelError if they are of another adapter."""
        own = self.weights()
        odd = sorted(own.keys() ^ weights.keys()) or sorted(
            name for name in own if own[name].shape != weights[name].shape
        )
        if odd:
            raise ModelError(f"the adapter's weights do not fit the network: {odd[0]!r} (model.lora)")
        set_peft_model_state_dict(self._network, dict(weights), adapter_name=NAME)

    @contextmanager
    def off(self) -> Iterator[None]:
        """While this lasts, the network is what it was without the adapter: the reference, with other adapters on."""
        if self._others:
            self._network.set_adapters(self._others)
        else:
            self._network.disable_adapters()
        try:
            yield
        finally:
            self._network.enable_adapters()
            self._network.set_adapters([*self._others, NAME])

    def save(self, folder: Path) -> None:
        """Write it as diffusers loads it (`load_lora_adapter(folder, prefix=None)`), rank and alpha with it."""
        self._network.save_lora_adapter(folder, adapter_name=NAME)
