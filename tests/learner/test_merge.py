"""Linear combinations of saved weights, against numbers worked out by hand and against models themselves."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from areal.broker.errors import ModelError
from areal.learner.archive import SavedWeights, open_weights
from areal.learner.attention import Segments
from areal.learner.checkpoint import CheckpointStore, LearnerState
from areal.learner.config import LoraConfig, ModelConfig
from areal.learner.merge import Mixture, by_metric, combined, normalised, with_adapters
from areal.learner.ranks import ALONE
from areal.learner.token_policy import TokenPolicy

from .test_trainer import VOCAB, save_tiny_llama

LORA = LoraConfig(rank=2, alpha=6)
TOKENS = torch.arange(9)[None] * 5 % VOCAB
Q = "base_model.model.q"


def saved(folder: Path, step: int, weights: dict[str, Tensor]) -> SavedWeights:
    """The weights as a run saves them and finds them again."""
    store = CheckpointStore(folder, keep=1, archive_every=1)
    store.archive(LearnerState(step, step, [], 0), weights, permit=lambda: None)
    store.wait()
    return open_weights(folder, step)


def policies(model: ModelConfig, number: int = 3) -> list[TokenPolicy]:
    """Each moved from the model in a direction of its own."""
    made = []
    for seed in range(number):
        torch.manual_seed(seed)
        made.append(TokenPolicy(model.path, model))
        with torch.no_grad():
            for parameter in made[-1].parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def logits(folder: Path) -> Tensor:
    """As transformers computes them."""
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=TOKENS).logits  # type: ignore[no-any-return]


def own_logits(policy: TokenPolicy) -> Tensor:
    """As the learner has them."""
    segments = Segments.of(torch.tensor([0, TOKENS.shape[1]]))
    with torch.no_grad():
        return policy._causal_lm(input_ids=TOKENS, segments=segments, use_cache=False).logits  # type: ignore[no-any-return]


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return str(save_tiny_llama(tmp_path / "llama"))


def test_a_combination_is_what_the_hand_computes(tmp_path: Path) -> None:
    first = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(4.0), "count": torch.tensor([7])}
    second = {"a": torch.tensor([3.0, -2.0]), "b": torch.tensor(0.0), "count": torch.tensor([8])}
    both = [saved(tmp_path, step, weights) for step, weights in enumerate((first, second))]
    made = combined(both, [0.25, 0.75])
    assert {name: tensor.tolist() for name, tensor in made.items()} == {"a": [2.5, -1.0], "b": 1.0, "count": [8]}
    assert combined(both, [-0.5, 1.5])["a"].tolist() == [4.0, -4.0]


def test_a_mean_is_rounded_once(tmp_path: Path) -> None:
    """In bfloat16, 256 + 1 + 1 would be 256 and the mean 85.5; it is 86."""
    three = [
        saved(tmp_path, i, {"a": torch.tensor([v], dtype=torch.bfloat16)}) for i, v in enumerate((256.0, 1.0, 1.0))
    ]
    mean = combined(three, [1 / 3] * 3)["a"]
    assert mean.dtype == torch.bfloat16 and mean.item() == 86.0


@pytest.mark.parametrize("transposed", [False, True])
def test_of_adapters_the_products_are_combined(tmp_path: Path, transposed: bool) -> None:
    """s = 6/2; B₁A₁ = [[1, 2], [0, 0]], B₂A₂ = [[0, 0], [4, 4]]."""
    pairs = [([[1.0, 2.0], [5.0, 5.0]], [[1.0, 0.0], [0.0, 0.0]]), ([[2.0, 2.0], [5.0, 5.0]], [[0.0, 0.0], [2.0, 0.0]])]
    both = [
        saved(tmp_path, step, {f"{Q}.lora_A.weight": torch.tensor(a), f"{Q}.lora_B.weight": torch.tensor(b)})
        for step, (a, b) in enumerate(pairs)
    ]
    base = {"q.weight": torch.eye(2), "k.weight": torch.ones(1)}
    made = with_adapters(base, both, [0.5, 0.5], lora=LORA, transposed={"q.weight"} if transposed else ())
    wanted = torch.tensor([[2.5, 3.0], [6.0, 7.0]])
    assert made["q.weight"].equal(wanted.T if transposed else wanted) and made["k.weight"] is base["k.weight"]
    assert base["q.weight"].equal(torch.eye(2))


def test_weights_become_coefficients() -> None:
    assert normalised([1, 1, 2]) == [0.25, 0.25, 0.5] and normalised([-1, 3]) == [-0.5, 1.5]
    assert by_metric([0.5, 0.6]) == pytest.approx([0.2689414, 0.7310586])
    assert by_metric([-3.0, -3.0]) == [0.5, 0.5]


def test_a_combination_is_a_model_with_the_mean_of_the_weights(llama: str, tmp_path: Path) -> None:
    made = policies(ModelConfig(path=llama))
    (Path(llama) / "tokenizer.json").write_text("{}")
    three = [saved(tmp_path / "saved", step, ALONE.owned(policy.weights())) for step, policy in enumerate(made)]
    mixture = Mixture(ModelConfig(path=llama), three)
    mixture.write([0.2, 0.3, 0.5], tmp_path / "mean")
    assert (tmp_path / "mean" / "tokenizer.json").read_text() == "{}"
    states = [policy._causal_lm.state_dict() for policy in made]
    mean = {name: 0.2 * states[0][name] + 0.3 * states[1][name] + 0.5 * states[2][name] for name in states[0]}
    made[0]._causal_lm.load_state_dict(mean)
    torch.testing.assert_close(logits(tmp_path / "mean"), own_logits(made[0]), rtol=1e-5, atol=1e-5)
    mixture.write([0.0, 1.0, 0.0], tmp_path / "one")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "one").state_dict()
    assert all(tensor.equal(states[1][name]) for name, tensor in alone.items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_merged_adapter_is_the_same_policy(kind: str, tmp_path: Path, llama: str) -> None:
    """GPT-2 keeps its weights transposed, those that are square too."""
    path, targets = llama, "all-linear"
    if kind == "gpt2":
        path, targets = str(tmp_path / "gpt2"), ["c_proj"]
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
        GPT2LMHeadModel(config).save_pretrained(path)
    model = ModelConfig(path=path, lora=LoraConfig(rank=4, alpha=8, targets=targets))
    with pytest.warns(UserWarning, match="fan_in_fan_out") if kind == "gpt2" else nullcontext():
        made = policies(model)
    three = [saved(tmp_path / "saved", step, ALONE.owned(policy.weights())) for step, policy in enumerate(made)]
    mixture = Mixture(model, three)
    for index, policy in enumerate(made):
        mixture.write([float(index == each) for each in range(3)], tmp_path / f"alone-{index}")
        torch.testing.assert_close(logits(tmp_path / f"alone-{index}"), own_logits(policy), rtol=1e-5, atol=1e-5)

    mixture.write([1 / 3] * 3, tmp_path / "mean")
    alone = [AutoModelForCausalLM.from_pretrained(tmp_path / f"alone-{index}").state_dict() for index in range(3)]
    mean = AutoModelForCausalLM.from_pretrained(tmp_path / "mean").state_dict()
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, sum(each[name] for each in alone) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["embed.lora_embedding_A", "embed.base_layer.weight", "tied.lora_A.weight"])
def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path: Path, name: str) -> None:
    one = saved(tmp_path, 1, {f"base_model.model.{name}": torch.ones(2, 2)})
    with pytest.raises(ModelError, match=rf"{name}.* cannot be merged; leave that layer out of model.lora.targets"):
        with_adapters({"embed.weight": torch.eye(2)}, [one], [1.0], lora=LORA, transposed=())


def test_weights_of_different_models_are_refused(tmp_path: Path) -> None:
    one = saved(tmp_path, 1, {"a": torch.ones(1), "b": torch.ones(1)})
    other = saved(tmp_path, 2, {"a": torch.ones(1)})
    with pytest.raises(ModelError, match=r"steps 1 and 2 are not of one model: 1 names differ, 'b' first"):
        combined([one, other], [0.5, 0.5])
