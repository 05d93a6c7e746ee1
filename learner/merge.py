"""One model from the weights that a run has saved at several steps: θ = Σᵢ cᵢ·θᵢ, with Σᵢ cᵢ = 1.

The sums are made a tensor at a time, in float64 (in float32 for weights of half precision), and rounded once.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..broker.errors import ModelError
from .archive import SavedWeights
from .config import LoraConfig, ModelConfig
from .ranks import ALONE
from .token_policy import TokenPolicy

TEMPERATURE = 0.1
"""Of the softmax by_metric: a metric that is higher by so much weighs e times as much."""

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class Mixture:
    """A model beside some of its saved weights, of which it can take any linear combination.

    Of an adapter, which adds s·BᵢAᵢ to a weight, it is the products that are combined: Σᵢ cᵢ·(W + s·BᵢAᵢ). That is no
    adapter of the same rank, but always a whole model.
    """

    def __init__(self, model: ModelConfig, saved: Sequence[SavedWeights]) -> None:
        self._saved = saved
        self._lora = model.lora
        self._policy = TokenPolicy(model.path, model.model_copy(update={"lora": None}))
        self._base = {} if model.lora is None else ALONE.owned(self._policy.weights())

    def write(self, coefficients: Sequence[float], folder: Path) -> None:
        """Writes the combination as a Hugging Face folder, tokenizer included."""
        if self._lora is None:
            made = combined(self._saved, coefficients)
        else:
            made = with_adapters(
                self._base, self._saved, coefficients, lora=self._lora, transposed=self._policy.transposed()
            )
        self._policy.load_weights(made)
        self._policy.save_pretrained(folder)


def combined(saved: Sequence[SavedWeights], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """Σᵢ cᵢ·θᵢ of weights of the same names and shapes; what is not of floating point is taken from the last."""
    return {name: _sum(saved, name, coefficients) for name in _common_names(saved)}


def with_adapters(
    base: Mapping[str, Tensor],
    saved: Sequence[SavedWeights],
    coefficients: Sequence[float],
    *,
    lora: LoraConfig,
    transposed: Collection[str],
) -> dict[str, Tensor]:
    """W + s·Σᵢ cᵢ·BᵢAᵢ for each weight W that has an adapter, with s = alpha/rank; the others as they are.

    base: the model's weights by name.
    transposed: the names of those that are kept as [in, out].
    """
    made = dict(base)
    for name in _adapted(_common_names(saved), base):
        weight = base[name]
        wide = _wide(weight.dtype)
        module = _PREFIX + name.removesuffix(".weight")
        delta = torch.zeros((), dtype=wide)
        for each, coefficient in zip(saved, coefficients, strict=True):
            delta = delta + coefficient * (each.read(module + _B).to(wide) @ each.read(module + _A).to(wide))
        delta = lora.alpha / lora.rank * delta
        made[name] = (weight.to(wide) + (delta.T if name in transposed else delta)).to(weight.dtype)
    return made


def normalised(weights: Sequence[float]) -> list[float]:
    """Coefficients in these proportions, which need not be positive as long as their sum is."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def by_metric(metrics: Sequence[float]) -> list[float]:
    """Coefficients cᵢ ∝ exp(mᵢ/TEMPERATURE)."""
    best = max(metrics)
    return normalised([math.exp((metric - best) / TEMPERATURE) for metric in metrics])


def _common_names(saved: Sequence[SavedWeights]) -> list[str]:
    """The names that all have; raises ModelError where they differ."""
    names = saved[0].names()
    for other in saved[1:]:
        odd = sorted(set(names) ^ set(other.names()))
        if odd:
            raise ModelError(
                f"the weights of steps {saved[0].step} and {other.step} are not of one model: {len(odd)} names differ, "
                f"{odd[0]!r} first; name steps between which model.path and model.lora were not changed"
            )
    return names


def _adapted(names: Sequence[str], base: Mapping[str, Tensor]) -> list[str]:
    """The names of the weights that these adapter tensors belong to."""
    made = []
    for name in names:
        weight = name.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B) + ".weight"
        if not name.endswith((_A, _B)) or weight not in base:
            raise ModelError(
                f"{name!r} is an adapter of no linear layer with a weight of its own, so it cannot be merged; leave "
                "that layer out of model.lora.targets"
            )
        if name.endswith(_A):
            made.append(weight)
    return made


def _sum(saved: Sequence[SavedWeights], name: str, coefficients: Sequence[float]) -> Tensor:
    last = saved[-1].read(name)
    if not last.dtype.is_floating_point:
        return last
    total = torch.zeros(last.shape, dtype=_wide(last.dtype))
    for each, coefficient in zip(saved, coefficients, strict=True):
        total += coefficient * each.read(name).to(total.dtype)
    return total.to(last.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else torch.float64
