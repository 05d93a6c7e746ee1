import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from areal.broker.errors import ConfigError
from areal.learner.tokenizer import VOCABULARY, character_tokenizer
from areal.rewards.config import RewardsConfig
from areal.rewards.models.reward_model import reward_model
from areal.rewards.pool import RewardPool
from areal.rewards.reward import prepare

SIZES = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPTS = ["7391", "1", "42"]
COMPLETIONS = ["7;37;379;1379#1379", "", "24#24 is what comes of it, at some length"]
NAMES = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}


def saved(folder: Path, network: Any, *, template: bool = True) -> Any:
    """The network as the folder has it, with a tokenizer of characters; drawn anew, so that its scores differ well."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    network.eval().save_pretrained(folder)
    tokenizer = character_tokenizer("sort:")
    if not template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return network


def llama(**settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"num_labels": 1, "pad_token_id": 0, "intermediate_size": 32, "max_position_embeddings": 64} | settings
    return LlamaForSequenceClassification(LlamaConfig(**SIZES, **given))


def gpt2(**settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"num_labels": 1, "pad_token_id": 0, "n_positions": 64} | settings
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=2, n_head=2, **given)
    )


def bert(**settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"num_labels": 1, "pad_token_id": 0, "intermediate_size": 32, "max_position_embeddings": 64} | settings
    return BertForSequenceClassification(BertConfig(**SIZES, **given))


def logits(network: Any, *texts: str) -> torch.Tensor:
    """float[B, L], of each text alone, a token a character."""
    rows = []
    for text in texts:
        tokens = [1 if symbol == "$" else VOCABULARY.index(symbol) for symbol in text]  # $: <eos>
        with torch.no_grad():
            rows.append(network(input_ids=torch.tensor([tokens])).logits[0])
    return torch.stack(rows)


RENDERED = [f"sort:{prompt}={completion}$" for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]


@pytest.mark.parametrize("make", [llama, gpt2, bert])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_padding_changes_no_score(tmp_path: Path, make: Any, batch_size: int) -> None:
    network = saved(tmp_path, make())
    found = reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path), batch_size=batch_size)
    wanted = logits(network, *RENDERED)[:, 0]
    assert found == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-5)
    assert wanted.std() > 0.05  # else they would agree whatever was read
    sigmoid = reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path), batch_size=batch_size, sigmoid=True)
    assert sigmoid == pytest.approx(wanted.sigmoid().tolist(), rel=1e-4)


def test_a_model_without_padding_reads_one_at_a_time(tmp_path: Path) -> None:
    network = saved(tmp_path, llama(pad_token_id=None))
    wanted = logits(network, *RENDERED)[:, 0].tolist()
    assert reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path)) == pytest.approx(wanted, rel=1e-4)


def test_the_models_own_padding_is_used_where_the_tokenizer_has_another(tmp_path: Path) -> None:
    unknown = VOCABULARY.index("<unk>")
    network = saved(tmp_path, llama(pad_token_id=unknown))
    wanted = logits(network, *RENDERED)[:, 0].tolist()
    assert reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path)) == pytest.approx(wanted, rel=1e-4)


def test_the_rows_messages_are_read_where_it_has_some(tmp_path: Path) -> None:
    network = saved(tmp_path, llama())
    turns = [("user", "1"), ("assistant", "2"), ("user", "3")]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = reward_model(["4"], ["3"], [messages], model=str(tmp_path))
    assert found == pytest.approx(logits(network, "sort:1=2$sort:3=4$")[:, 0].tolist(), rel=1e-4)


def test_without_a_template_the_completion_follows_on_a_line_of_its_own(tmp_path: Path) -> None:
    network = saved(tmp_path, llama(), template=False)
    found = reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path))
    plain = [f"{prompt}\n{completion}" for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert found == pytest.approx(logits(network, *plain)[:, 0].tolist(), rel=1e-4)


def test_what_is_too_long_loses_its_beginning(tmp_path: Path) -> None:
    network = saved(tmp_path, gpt2())
    found = reward_model(["123456789"], ["0"], model=str(tmp_path), max_length=5)
    assert found == pytest.approx(logits(network, "6789$")[:, 0].tolist(), rel=1e-4)
    long = reward_model(["1" * 100 + "2" * 50], ["0"], model=str(tmp_path))  # the model has 64 places
    assert long == pytest.approx(logits(network, "1" * 13 + "2" * 50 + "$")[:, 0].tolist(), rel=1e-4)


@pytest.mark.parametrize(("label", "place"), [("good", 2), ("bad", 0), (1, 1)])
def test_of_several_labels_one_has_its_probability(tmp_path: Path, label: str | int, place: int) -> None:
    network = saved(tmp_path, llama(num_labels=3, **NAMES))
    found = reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path), label=label)
    wanted = logits(network, *RENDERED).softmax(-1)[:, place]
    assert found == pytest.approx(wanted.tolist(), rel=1e-4) and wanted.std() > 0.01


def test_labels_that_do_not_exclude_each_other_have_each_their_own(tmp_path: Path) -> None:
    network = saved(tmp_path, llama(num_labels=3, problem_type="multi_label_classification", **NAMES))
    found = reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path), label="fair")
    assert found == pytest.approx(logits(network, *RENDERED).sigmoid()[:, 1].tolist(), rel=1e-4)


def test_it_may_be_read_in_half_precision(tmp_path: Path) -> None:
    network = saved(tmp_path, llama())
    found = reward_model(COMPLETIONS, PROMPTS, model=str(tmp_path), batch_size=1, dtype="bfloat16")
    wanted = logits(network, *RENDERED)[:, 0].tolist()
    assert found == pytest.approx(wanted, abs=0.2)
    assert found == torch.tensor(found).bfloat16().tolist() and wanted != torch.tensor(wanted).bfloat16().tolist()


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark(tmp_path: Path) -> None:
    saved(tmp_path, llama())
    first, second = reward_model(["1\ud83d", "1?"], ["2", "2"], model=str(tmp_path))
    assert first == pytest.approx(second)


def test_a_pool_scores_a_group_with_it(tmp_path: Path) -> None:
    network = saved(tmp_path, llama())
    function = {"name": "reward_model", "kwargs": {"model": str(tmp_path), "batch_size": 2}}
    pool = RewardPool(RewardsConfig.model_validate({"functions": [function], "timeout_s": 60}))
    row = {"prompt": "1", "label": "a column that is no setting of it", "max_length": 1}

    async def work() -> list[float]:
        await pool.start()
        try:
            grading = pool.grading("1", row, len(COMPLETIONS))
            return [score.total for score in await asyncio.gather(*map(grading.score, COMPLETIONS))]
        finally:
            await pool.stop()

    wanted = logits(network, *(f"sort:1={completion}$" for completion in COMPLETIONS))[:, 0].tolist()
    assert asyncio.run(work()) == pytest.approx(wanted, rel=1e-4)


def test_what_cannot_be_had_is_told_as_the_run_starts(tmp_path: Path) -> None:
    one, three, language = (tmp_path / name for name in ("one", "three", "language"))
    saved(one, llama())
    saved(three, llama(num_labels=3, **NAMES))
    saved(language, LlamaForCausalLM(llama().config))
    for kwargs, message in (
        ({"model": str(tmp_path / "none")}, r"the reward model '.*none' \(kwargs.model\) cannot be loaded"),
        ({"model": str(language)}, r"is no trained reward model: it has no weights for score.weight"),
        ({"model": str(three)}, "kwargs.label is None, and the reward model has the labels bad, fair, good: name one"),
        ({"model": str(three), "label": "best"}, "kwargs.label is 'best', and .* bad, fair, good"),
        ({"model": str(three), "label": 3}, "kwargs.label is 3"),
        ({"model": str(three), "label": True}, "kwargs.label is True"),
        ({"model": str(three), "label": 1, "sigmoid": True}, "kwargs.sigmoid is for a reward model of one label"),
        (
            {"model": str(one), "label": "good"},
            "kwargs.label is 'good', and the reward model has one label: leave it out",
        ),
        ({"model": str(one), "dtype": "int8"}, "kwargs.dtype of reward_model is 'int8': one of auto, float32"),
        ({"model": str(one), "batch_size": 0}, "kwargs.batch_size of reward_model is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare("reward_model", reward_model, kwargs).begin()
    prepare("reward_model", reward_model, {"model": str(one)}).begin()
