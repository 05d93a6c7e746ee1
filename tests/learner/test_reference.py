from pathlib import Path

import torch

from areal.learner.config import LoraConfig, ModelConfig
from areal.learner.packing import pack
from areal.learner.reference import reference_of
from areal.learner.token_policy import TokenPolicy

from .test_trainer import answered_with, save_tiny_llama


def test_with_an_adapter_the_reference_is_the_model_under_it(tmp_path: Path) -> None:
    plain = ModelConfig(path=str(save_tiny_llama(tmp_path)))
    with_lora = plain.model_copy(update={"lora": LoraConfig(rank=4)})
    policy, packed = TokenPolicy(tmp_path, with_lora), pack([answered_with([1, 2, 3, 4, 5], 2)])
    reference = reference_of(policy, with_lora)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    wanted = TokenPolicy(tmp_path, plain).logprobs(packed)
    assert torch.equal(reference.logprobs(packed, 1.0), wanted)
    found = policy.logprobs(packed)
    assert not torch.allclose(found, wanted)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters()), "the adapter is on again, and learns"
