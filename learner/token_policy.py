"""A language model that learns: what it makes of a packed micro-batch, and the weights that travel to the rollout workers.

Legend: N tokens and A actions of a micro-batch, V the vocabulary of the model.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoTokenizer
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from ..broker.errors import ModelError
from ..broker.trajectory import Group, TokenTrajectory
from .attention import Segments
from .config import LoraConfig, ModelConfig
from .decoder import checkpoint_layers, compile_layers, hidden_states, layers_of, load_causal_lm
from .packed_lm import PackedLM
from .packing import PackedBatch
from .policy import Scores
from .ranks import ALONE, Ranks

TOKENIZER_FILES = ("token*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")


class TokenPolicy:
    """A causal language model in Hugging Face format, or an adapter on one.

    It stays in evaluation mode, gradients and all: dropout would make π_θ differ from the π_behav that the engine
    sampled from. An adapter's start is random; seed torch before. Of several `ranks` each holds a shard of it.
    """

    def __init__(
        self,
        model_path: str | Path,
        config: ModelConfig,
        device: torch.device | str = "cpu",
        *,
        ranks: Ranks = ALONE,
        with_values: bool = False,
    ) -> None:
        self._source = str(model_path)
        self._device = torch.device(device)
        self._ranks = ranks
        self._causal_lm = load_causal_lm(self._source, config.dtype).eval()
        self._packed_lm = PackedLM(self._causal_lm, self._source, with_values=with_values)
        if ranks.count == 1:  # a shard goes to its device by itself
            self._packed_lm.to(self._device)
        self._refuse_misfit()
        self._adapter = None if config.lora is None else _add_adapter(self._causal_lm, config.lora)
        if config.gradient_checkpointing:
            checkpoint_layers(self._causal_lm, self._source)
        if config.compile:
            compile_layers(self._packed_lm.decoder)
        value_head = self._packed_lm.value_head
        heads = [] if value_head is None else [value_head]  # in float32, whatever the others are
        ranks.shard(self._packed_lm, [*layers_of(self._packed_lm.decoder), *heads])

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return int(self._causal_lm.config.vocab_size)

    def scores(self, batch: PackedBatch, temperature: float = 1.0) -> Scores:
        """What the policy, and its value head if it has one, says of each action."""
        found: Scores = self._packed_lm(batch.to(self._device), temperature)
        return found

    def logprobs(self, batch: PackedBatch, temperature: float = 1.0) -> Tensor:
        """float32[A], log π_θ of each action at that temperature."""
        return self.scores(batch, temperature).logprobs_A

    def require_row(self, row: dict[str, Any]) -> None:
        """Any text can be answered."""

    def unfit(self, group: Group[Any]) -> str | None:
        """Why the group cannot be learned from; see Policy."""
        if not isinstance(group.trajectories[0], TokenTrajectory):
            return f"prompt {group.prompt_id} was answered with images, and this policy learns from tokens"
        largest = max(int(trajectory.tokens.max()) for trajectory in group.trajectories)
        if largest >= self.vocab_size:
            return f"prompt {group.prompt_id} has token {largest}, the vocabulary only {self.vocab_size} of them"
        return None

    def adapter_off(self) -> AbstractContextManager[Any]:
        """While it lasts, the policy is the model under the adapter."""
        if self._adapter is None:
            raise ModelError(f"{self._source} is trained without an adapter: there is none to switch off")
        switched: AbstractContextManager[Any] = self._adapter.disable_adapter()
        return switched

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, or with LoRA the adapter's; those of the value head last."""
        return (parameter for parameter in self._packed_lm.parameters() if parameter.requires_grad)

    def value_head(self) -> dict[str, Tensor]:
        """The weights of the value head, which no engine needs: the parameters' own memory."""
        assert self._packed_lm.value_head is not None
        return self._packed_lm.value_head.state_dict()

    def weights(self) -> dict[str, Tensor]:
        """What is trained, by the names of a checkpoint: the model without tied copies, or the adapter as PEFT has it.

        The tensors are the parameters' own memory: copy what must outlive the next optimiser step.
        """
        if self._adapter is not None:
            from peft import get_peft_model_state_dict

            return dict(get_peft_model_state_dict(self._adapter))
        tied = self._causal_lm.all_tied_weights_keys
        state = {name: tensor for name, tensor in self._causal_lm.state_dict().items() if name not in tied}
        return dict(revert_weight_conversion(self._causal_lm, state))

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Takes over what `weights()` gave, into the parameters that the optimiser already holds."""
        odd = sorted(weights.keys() ^ self.weights().keys())
        if odd:
            raise ModelError(f"the weights do not fit {self._source}: {len(odd)} names differ, {odd[0]!r} first")
        try:
            if self._adapter is not None:
                from peft import set_peft_model_state_dict

                unexpected = set_peft_model_state_dict(self._adapter, weights).unexpected_keys
            else:
                unexpected = self._causal_lm.load_state_dict(weights, strict=False).unexpected_keys
        except RuntimeError as error:
            raise ModelError(f"the weights do not fit {self._source}: {error}") from error
        if unexpected:
            raise ModelError(f"{self._source} keeps its weights in another form than its checkpoint: {unexpected[0]!r}")

    def adapter_config(self) -> dict[str, Any] | None:
        """What stands in PEFT's adapter_config.json; None without LoRA."""
        if self._adapter is None:
            return None
        config = self._adapter.peft_config["default"].to_dict() | {"inference_mode": True}
        as_json = json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
        return dict(json.loads(as_json))

    def transposed(self) -> set[str]:
        """The names of the weights that are kept as [in, out], as those of GPT-2 are."""
        modules = self._causal_lm.named_modules()
        return {f"{name}.weight" for name, module in modules if isinstance(module, Conv1D)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a Hugging Face folder, tokenizer included, or with LoRA an adapter's folder; of several ranks, the leader."""
        model = self._causal_lm if self._adapter is None else self._adapter
        state = None if self._ranks.count == 1 else self._ranks.owned(self._saved(model), by_leader=True)
        if not self._ranks.leads:
            return
        model.save_pretrained(folder, state_dict=state)
        if self._adapter is None:
            self._save_tokenizer(Path(folder))

    def _saved(self, model: Any) -> dict[str, Tensor]:
        """What `save_pretrained` of this model writes, by the names of its own state."""
        if self._adapter is None:
            left_out = self._causal_lm.all_tied_weights_keys.keys()
        else:
            left_out = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}

    def _save_tokenizer(self, folder: Path) -> None:
        if not Path(self._source).is_dir():
            AutoTokenizer.from_pretrained(self._source).save_pretrained(folder)
            return
        for pattern in TOKENIZER_FILES:
            for file in Path(self._source).glob(pattern):
                shutil.copyfile(file, folder / file.name)

    @torch.no_grad()
    def _refuse_misfit(self) -> None:
        """Compares two tiny packed segments with the model's own forward pass, each segment alone.

        It finds models that scale or cap their logits after the head, and those that carry anything but attention
        from token to token and so from segment to segment.
        """
        device = next(self._causal_lm.parameters()).device
        tokens_N = torch.tensor([0, 1, 2, 0, 2, 1, 0], device=device)
        cu_lengths = torch.tensor([0, 3, 7], device=device)
        positions_N = torch.tensor([0, 1, 2, 0, 1, 2, 3], device=device)
        model = self._packed_lm
        packed_NV = model.head(hidden_states(model.decoder, tokens_N, positions_N, cu_lengths)).float()
        for start, end in ((0, 3), (3, 7)):
            alone = Segments.of(torch.tensor([0, end - start], device=device))
            own_1LV = self._causal_lm(input_ids=tokens_N[None, start:end], segments=alone, use_cache=False).logits
            error = (packed_NV[start:end] - own_1LV[0].float()).abs().max()
            if error > (1e-3 if own_1LV.dtype == torch.float32 else 0.1) * own_1LV.abs().max():
                raise ModelError(
                    f"{self._source}: packed, its logits differ from its own by {error:.3g}; it cannot be packed"
                )


def _add_adapter(causal_lm: Any, config: LoraConfig) -> Any:
    import peft

    return peft.get_peft_model(
        causal_lm,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=config.targets,
            lora_dropout=0.0,
        ),
    ).eval()
