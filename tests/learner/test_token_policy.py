import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from areal.broker.errors import ModelError
from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, TokenTrajectory
from areal.learner import packed_lm
from areal.learner.config import LoraConfig, ModelConfig
from areal.learner.packing import pack
from areal.learner.token_policy import TokenPolicy

VOCAB = 50
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # sharp enough that a wrong attention shows in the log-probabilities
}
LENGTHS = (9, 31, 2, 30, 17)


def model(kind: str = "llama", **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES | options)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES | options)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES | {"head_dim": 16} | options)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES | {"head_dim": 8, "sliding_window": 7} | options)),
        "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES | {"head_dim": 8} | options)),
        "gemma3": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(
                **SIZES | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8} | options,
                layer_types=["sliding_attention", "full_attention"],
            )
        ),
        "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES | {"logit_scale": 0.0625} | options)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2)),
    }[kind]()
    return made.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model().save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path, **options: Any) -> TokenPolicy:
    return TokenPolicy(folder, ModelConfig(path=str(folder), **options))


def trajectories(lengths: tuple[int, ...] = LENGTHS) -> list[TokenTrajectory]:
    """Half prompt, then answer, with a token in the middle of it that the policy did not choose."""
    generator = np.random.default_rng(0)
    made = []
    for length in lengths:
        versions = np.zeros(length, np.int32)
        versions[: max(1, length // 2)] = NOT_AN_ACTION
        versions[length - 3 : length - 2] = NOT_AN_ACTION
        tokens = generator.integers(0, VOCAB, length).astype(np.int32)
        made.append(TokenTrajectory(tokens, versions, np.zeros(length, np.float32), reward=0.0))
    return made


def one_by_one(reference: PreTrainedModel, temperature: float) -> tuple[Tensor, Tensor]:
    """The actions' log-probabilities and entropies, each trajectory alone through the model's own forward pass."""
    logprobs, entropies = [], []
    for trajectory in trajectories():
        tokens, actions = torch.from_numpy(trajectory.tokens).long(), torch.from_numpy(trajectory.action_mask)
        logits = reference(input_ids=tokens[None]).logits[0, :-1] / temperature
        distribution = torch.distributions.Categorical(logits=logits[actions[1:]])
        logprobs.append(distribution.log_prob(tokens[actions]))
        entropies.append(distribution.entropy())
    return torch.cat(logprobs), torch.cat(entropies)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma", "gemma3", "mistral"])
def test_packed_equals_one_by_one_and_so_do_the_gradients(
    tmp_path: Path, kind: str, tied: bool, attention: str
) -> None:
    model(kind, tie_word_embeddings=tied).save_pretrained(tmp_path)
    policy = load(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=attention).eval()
    wanted, wanted_entropies = one_by_one(reference, temperature=0.7)
    logprobs, entropies, *_ = policy.scores(pack(trajectories()), temperature=0.7)
    torch.testing.assert_close(logprobs, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies, wanted_entropies.detach(), rtol=1e-5, atol=1e-5)
    assert not entropies.requires_grad

    weight = torch.randn(len(wanted), generator=torch.Generator().manual_seed(1))
    (wanted * weight).sum().backward()
    (logprobs * weight).sum().backward()
    pairs = list(zip(policy.parameters(), reference.parameters(), strict=True))
    assert len(pairs) == len(policy.weights())
    for mine, its in pairs:
        assert mine.grad is not None and mine.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=5e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
@pytest.mark.filterwarnings("ignore")  # torch.compile has warnings of its own making
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_equals_eager(folder: Path, checkpointing: bool) -> None:
    """For batches of several shapes, and compiled for the first alone."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    options = {"path": str(folder), "gradient_checkpointing": checkpointing}
    eager, compiled = (
        TokenPolicy(folder, ModelConfig.model_validate(options | {"compile": wanted})) for wanted in (False, True)
    )
    compilations = []
    for batch in (pack(trajectories()), pack(trajectories()[:2]), pack(trajectories()[1:])):
        for policy in (eager, compiled):
            policy.logprobs(batch).sum().backward()
        torch.testing.assert_close(compiled.logprobs(batch), eager.logprobs(batch), rtol=1e-4, atol=1e-4)
        compilations.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    for mine, its in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-3, atol=1e-4)
    assert compilations[0] == compilations[-1] > 0


def test_chunked_equals_unchunked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = load(folder), pack(trajectories())

    def run() -> tuple[Tensor, Tensor, list[Tensor | None]]:
        logprobs, entropies, *_ = policy.scores(batch, 0.7)
        for parameter in policy.parameters():
            parameter.grad = None
        logprobs.square().sum().backward()
        return logprobs.detach(), entropies, [parameter.grad for parameter in policy.parameters()]

    whole = run()
    monkeypatch.setattr(packed_lm, "MAX_LOGITS", 7 * VOCAB)
    assert batch.num_actions > 3 * 7
    torch.testing.assert_close(run(), whole, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(policy.logprobs(batch, 0.7), whole[0], rtol=1e-5, atol=1e-5)


def test_weights_have_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    for tied in (True, False):
        model(tie_word_embeddings=tied).save_pretrained(tmp_path)
        policy = load(tmp_path)
        names = set(policy.weights())
        assert ("lm_head.weight" in names) is not tied
        assert names | {"lm_head.weight"} == set(model().state_dict())
        assert policy.weights().keys() == names


def test_loaded_weights_reach_the_optimisers_parameters(folder: Path) -> None:
    policy, batch = load(folder), pack(trajectories())
    parameters, before = list(policy.parameters()), policy.logprobs(batch, 1.0)
    kept = {name: tensor.clone() for name, tensor in policy.weights().items()}
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    assert not torch.allclose(policy.logprobs(batch, 1.0), before)
    policy.load_weights(kept)
    assert [id(parameter) for parameter in policy.parameters()] == [id(parameter) for parameter in parameters]
    assert policy.logprobs(batch, 1.0).tolist() == before.tolist()


def test_refuses_weights_of_another_model(folder: Path) -> None:
    policy = load(folder)
    weights = policy.weights()
    with pytest.raises(ModelError, match=r"1 names differ, 'model.norm.weight' first"):
        policy.load_weights({name: tensor for name, tensor in weights.items() if name != "model.norm.weight"})
    with pytest.raises(ModelError, match="size mismatch"):
        policy.load_weights(weights | {"model.norm.weight": torch.zeros(3)})


def test_saved_folder_is_the_same_policy(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    policy, batch = load(folder), pack(trajectories())
    with torch.no_grad():
        next(policy.parameters()).add_(0.1)
    policy.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == "{}"
    assert "areal_packed" not in (tmp_path / "saved" / "config.json").read_text()
    wanted = policy.logprobs(batch, 1.0).tolist()
    assert load(tmp_path / "saved").logprobs(batch, 1.0).tolist() == wanted


@pytest.fixture
def adapted(folder: Path) -> TokenPolicy:
    """With an adapter that is not zero."""
    policy = load(folder, lora=LoraConfig(rank=4, alpha=8))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    return policy


def test_only_the_adapter_is_trained(adapted: TokenPolicy) -> None:
    adapted.logprobs(pack(trajectories()), 1.0).sum().backward()
    every = dict(adapted._causal_lm.named_parameters())
    trained = {name for name, parameter in every.items() if parameter.grad is not None}
    assert trained == {name for name in every if "lora_" in name}
    assert len(trained) == len(list(adapted.parameters())) == len(adapted.weights()) == 2 * 7 * 2
    assert all(parameter.grad.abs().max() > 0 for parameter in adapted.parameters() if parameter.grad is not None)


def test_the_adapter_loads_in_peft(adapted: TokenPolicy, folder: Path, tmp_path: Path) -> None:
    """Both as a saved folder and as published weights beside the published configuration."""
    adapted.save_pretrained(tmp_path / "adapter")
    wanted = adapted.logprobs(pack(trajectories()), 1.0).detach()
    saved = peft.PeftModel.from_pretrained(model(), tmp_path / "adapter").eval()
    torch.testing.assert_close(one_by_one(saved, 1.0)[0], wanted, rtol=1e-5, atol=1e-5)

    config = adapted.adapter_config()
    assert config is not None and config["r"] == 4 and any("q_proj" in name for name in config["target_modules"])
    on_disk = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config | {"target_modules": None} == on_disk | {"target_modules": None}
    published = tmp_path / "published"
    published.mkdir()
    (published / "adapter_config.json").write_text(json.dumps(config))
    save_file(adapted.weights(), published / "adapter_model.safetensors")
    loaded = peft.PeftModel.from_pretrained(model(), published).eval()
    torch.testing.assert_close(one_by_one(loaded, 1.0)[0], wanted, rtol=1e-5, atol=1e-5)


def test_adapter_weights_return(adapted: TokenPolicy, folder: Path) -> None:
    fresh, batch = load(folder, lora=LoraConfig(rank=4, alpha=8)), pack(trajectories())
    fresh.load_weights(adapted.weights())
    assert fresh.logprobs(batch, 1.0).tolist() == adapted.logprobs(batch, 1.0).tolist()
    assert load(folder).adapter_config() is None


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(folder: Path, dtype: str, lora: LoraConfig | None) -> None:
    policy, batch = load(folder, dtype=dtype, lora=lora), pack(trajectories())
    logprobs, *_ = policy.scores(batch, 1.0)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, load(folder).logprobs(batch, 1.0), rtol=0.05, atol=0.2)
    logprobs.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
    if lora is None:
        assert {str(tensor.dtype) for tensor in policy.weights().values()} == {f"torch.{dtype}"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [("cohere", "its logits differ"), ("mamba", "its logits differ")],
)
def test_refuses_models_that_cannot_be_packed(tmp_path: Path, kind: str, message: str) -> None:
    model(kind).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing_but_the_memory(folder: Path, lora: LoraConfig | None) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = load(folder, gradient_checkpointing=checkpointing, lora=lora)
        batch, saved = pack(trajectories()), [0]

        def count(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            logprobs, *_ = policy.scores(batch, 1.0)
        logprobs.sum().backward()
        gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        found.append((saved[0], logprobs.detach(), gradients))
    (kept, logprobs, gradients), (kept_less, same_logprobs, same_gradients) = found
    assert kept_less < 0.5 * kept
    torch.testing.assert_close(same_logprobs, logprobs)
    assert len(gradients) == len(same_gradients) > 0
    torch.testing.assert_close(same_gradients, gradients)


def test_refuses_a_folder_without_a_whole_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        load(tmp_path / "nothing")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights: 'model.norm.weight'"):
        load(folder)


def test_a_token_outside_the_vocabulary_is_named(folder: Path) -> None:
    policy = load(folder)
    row = trajectories((3,))[0]

    def answered(token: int) -> Group[Any]:
        return Group(7, (replace(row, tokens=np.array([1, 2, token], np.int32)),))

    last = policy.vocab_size - 1
    assert policy.unfit(answered(last)) is None
    assert policy.unfit(answered(last + 1)) == f"prompt 7 has token {last + 1}, the vocabulary only {last + 1} of them"


def test_images_are_not_for_a_token_policy(folder: Path) -> None:
    latents, timesteps, logprobs = np.zeros((2, 4), np.float16), np.array([999, 499], np.int32), np.zeros(1, np.float32)
    image = DenoisingTrajectory(latents, timesteps, logprobs, 0, {}, guidance=1.0, seed=0, reward=1.0)
    said = "prompt 9 was answered with images, and this policy learns from tokens"
    assert load(folder).unfit(Group(9, (image,))) == said
