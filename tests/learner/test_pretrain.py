from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.broker.errors import ConfigError
from areal.learner.config import WarmstartConfig
from areal.learner.pretrain import pretrain
from areal.learner.tokenizer import CHARACTERS, character_tokenizer

MODELS = Path(__file__).parents[2] / "configs" / "models"
PROMPTS = {"sort": ("7391", "s7391="), "count": ("03kq", "c03kq=")}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examination at the end is cut short: a model of three steps never stops by itself."""
    monkeypatch.setattr("areal.learner.pretrain.EXAMINED_ROWS", 4)


def tiny(output: Path, **changes: Any) -> WarmstartConfig:
    return WarmstartConfig(problem="sort", output=output, steps=3, batch_size=8, **changes)


def ignore(record: dict[str, Any]) -> None:
    pass


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    torch.manual_seed(1)
    first = pretrain(tiny(tmp_path / "a"), reports.append)
    torch.manual_seed(2)
    second = pretrain(tiny(tmp_path / "b"), ignore)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert first["sampled_accuracy"] == second["sampled_accuracy"]
    assert first["parameters"] == 110_912
    assert reports[-1]["step"] == 3


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        pretrain(tiny(tmp_path / str(seed), seed=seed), ignore)
    one, other = ((tmp_path / str(seed) / "model.safetensors").read_bytes() for seed in (0, 1))
    assert one != other


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    pretrain(tiny(tmp_path / "model"), ignore)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("problem", ["arithmetic", "chess"])
def test_a_problem_without_demonstrations_is_refused(problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no demonstrations; those that do: sort, count"):
        pretrain(WarmstartConfig(problem=problem, output=tmp_path), ignore)


def test_a_size_that_heads_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden_size: 80 is no multiple of 32"):
        pretrain(tiny(tmp_path, hidden_size=80), ignore)


def test_an_output_that_can_be_no_folder_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(ConfigError, match=r"warmstart.output: the folder .* cannot be made"):
            pretrain(tiny(output), lambda record: pytest.fail("it was trained"))


def test_a_character_is_a_token() -> None:
    tokenizer = character_tokenizer("s")
    ids = tokenizer.encode(CHARACTERS)
    assert len(ids) == len(CHARACTERS) == 61 == len(set(ids))
    assert tokenizer.decode(ids) == CHARACTERS
    assert tokenizer.encode("é") == [tokenizer.unk_token_id]


@pytest.mark.parametrize("problem", PROMPTS)
def test_a_shipped_model_loads(problem: str) -> None:
    folder = MODELS / problem
    assert (folder / "model.safetensors").stat().st_size < 500_000
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(weight.numel() for weight in model.parameters()) == 110_912
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("problem", PROMPTS)
def test_a_shipped_tokenizer_renders_and_decodes(problem: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / problem)
    content, rendered = PROMPTS[problem]
    question, answer = {"role": "user", "content": content}, {"role": "assistant", "content": "#1"}
    assert tokenizer.apply_chat_template([question], add_generation_prompt=True, tokenize=False) == rendered
    assert tokenizer.apply_chat_template([question, answer], tokenize=False) == rendered + "#1<eos>"
    ids = tokenizer.encode(rendered)
    assert len(ids) == len(rendered)
    assert tokenizer.decode(ids) == rendered
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == rendered
