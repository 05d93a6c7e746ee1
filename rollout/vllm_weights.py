"""Runs inside vLLM's worker process: loads new weights into the model that is serving, and dies with its parent.

Named to vLLM as `worker_extension_cls`. Trap met on CPU: the linear layers are packed into oneDNN handles after
loading, and a tied lm_head keeps its old pack although its weight is new, unless it is packed again.
"""

import collections
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

from ..broker.errors import BrokerError
from ..broker.lifetime import end_with_parent
from ..transfer.channel import Channel, Seat, gpu, meet
from ..transfer.line import Backend, Manifest

if (parent := multiprocessing.parent_process()) is not None:
    end_with_parent(parent.pid)


class PolicyWeights:
    """Methods that vLLM adds to its worker."""

    vllm_config: Any
    model_runner: Any
    rank: int
    channel_of_policy: Channel | None = None

    def load_policy_weights(self, folder: str) -> int:
        """Replace the model's weights by the safetensors in `folder`; returns how many tensors were read."""
        tensors = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            tensors.update(load_file(file))
        if not tensors:
            raise FileNotFoundError(f"there are no weights in {folder}")
        self.replace_policy_weights(tensors.items())
        return len(tensors)

    def gpu_of_policy(self) -> str:
        """What tells this worker's GPU from all others; an empty string on a CPU."""
        return gpu()

    def meet_the_learner(self, host: str, port: int, prefix: str, backend: Backend, own_host: str, count: int) -> None:
        """Form a channel with the learner and the other workers of this engine, in place of the one before."""
        if self.channel_of_policy is not None:
            self.channel_of_policy.close()
        store = meet(host, port, prefix)
        self.channel_of_policy = Channel(store, Seat(1 + self.rank, count, backend, own_host))

    def receive_policy_weights(self, manifest: str) -> int:
        """Replace the model's weights by the tensors that come over the channel; returns how many came."""
        entries = Manifest.model_validate_json(manifest).tensors
        if not entries or self.channel_of_policy is None:
            raise BrokerError("there are no weights in the channel")
        self.replace_policy_weights(self.channel_of_policy.receive(entries))
        return len(entries)

    def replace_policy_weights(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Load all of a model's tensors, each as soon as it is there."""
        model = self.model_runner.model
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            remaining = iter(tensors)
            model.load_weights(remaining)
            collections.deque(remaining, maxlen=0)  # what the model has no use for is taken from the channel, too
            finalize_layerwise_reload(model, self.vllm_config.model_config)
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
