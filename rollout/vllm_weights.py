"""Runs inside vLLM's worker process: loads new weights into the model that is serving, and dies with its parent.

Named to vLLM as `worker_extension_cls`. Trap met on CPU: the linear layers are packed into oneDNN handles after
loading, and a tied lm_head keeps its old pack although its weight is new, unless it is packed again.
"""

import multiprocessing
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

from ..broker.lifetime import end_with_parent

if (parent := multiprocessing.parent_process()) is not None:
    end_with_parent(parent.pid)


class PolicyWeights:
    """Methods that vLLM adds to its worker."""

    vllm_config: Any
    model_runner: Any

    def load_policy_weights(self, folder: str) -> int:
        """Replace the model's weights by the safetensors in `folder`; returns how many tensors were read."""
        tensors = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            tensors.update(load_file(file))
        if not tensors:
            raise FileNotFoundError(f"there are no weights in {folder}")
        model = self.model_runner.model
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            model.load_weights(tensors.items())
            finalize_layerwise_reload(model, self.vllm_config.model_config)
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
        return len(tensors)
