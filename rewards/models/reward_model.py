"""What a reward model says: a network of transformers that has been trained to tell good answers from bad ones."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from ...broker.errors import ConfigError
from ..reward import begins_with

DTYPES = ("auto", "float32", "bfloat16", "float16")
MULTI_LABEL = "multi_label_classification"

Messages = Sequence[dict[str, str]]


def _begin(model: str, label: str | int | None, sigmoid: bool, batch_size: int, max_length: int, dtype: str) -> None:
    """Raises ConfigError for a model that cannot be loaded, or does not have that label."""
    for key, value in (("batch_size", batch_size), ("max_length", max_length)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"kwargs.{key} of reward_model is {value!r}: a whole number from 1 on is wanted")
    network, _ = _loaded(model, dtype)
    place = _place(network.config, label)
    if sigmoid and place is not None:
        raise ConfigError(
            f"kwargs.sigmoid is for a reward model of one label, and {model!r} has {_labels(network.config)}"
        )


@begins_with(_begin)
def reward_model(
    completions: Sequence[str],
    prompts: Sequence[str],
    messages: Sequence[Messages] | None = None,
    *,
    model: str,
    label: str | int | None = None,
    sigmoid: bool = False,
    batch_size: int = 8,
    max_length: int = 4096,
    dtype: str = "auto",
) -> list[float]:
    """The logit of a model of one label, or its sigmoid; of a model of several, the probability of `label`, a name or number.

    `model` is a folder or hub id for AutoModelForSequenceClassification. It reads the row's `messages`, or else the prompt as
    a user's, and the completion as the assistant's, by its own chat template; without one, the prompt, a line break and the
    completion. What has more than `max_length` tokens, or more than the model has places for, loses its beginning. Each
    reward process holds a model of its own, on the GPU if there is one; see rewards.workers and rewards.memory_mib. An answer
    that spells the template's special tokens is read as if they were the template's.
    """
    network, tokenizer = _loaded(model, dtype)
    asked = messages or [[{"role": "user", "content": prompt}] for prompt in prompts]
    pairs = zip(asked, completions, strict=True)
    texts = [_text(tokenizer, conversation, completion) for conversation, completion in pairs]
    size = batch_size if tokenizer.pad_token is not None else 1
    scores: list[float] = []
    for first in range(0, len(texts), size):
        scores += _scores(network, _tokens(network, tokenizer, texts[first : first + size], max_length), label, sigmoid)
    return scores


def _text(tokenizer: Any, conversation: Messages, completion: str) -> str:
    if tokenizer.chat_template is None:
        return "\n".join([*(message["content"] for message in conversation), completion])
    ended = [*conversation, {"role": "assistant", "content": completion}]
    return str(tokenizer.apply_chat_template(ended, tokenize=False))


def _tokens(network: Any, tokenizer: Any, texts: list[str], max_length: int) -> Any:
    places = getattr(network.config.get_text_config(), "max_position_embeddings", None) or max_length
    inputs = tokenizer(
        [text.encode(errors="replace").decode() for text in texts],
        add_special_tokens=tokenizer.chat_template is None,
        padding=len(texts) > 1,
        truncation=True,
        max_length=min(max_length, places, tokenizer.model_max_length),
        return_token_type_ids=False,
        return_tensors="pt",
    )
    return inputs.to(network.device)


def _scores(network: Any, inputs: Any, label: str | int | None, sigmoid: bool) -> list[float]:
    import torch

    with torch.inference_mode():
        logits_BL = network(**inputs).logits.float()
    place = _place(network.config, label)
    if place is None:
        scores_B = logits_BL[:, 0].sigmoid() if sigmoid else logits_BL[:, 0]
    elif network.config.problem_type == MULTI_LABEL:
        scores_B = logits_BL[:, place].sigmoid()
    else:
        scores_B = logits_BL.softmax(dim=-1)[:, place]
    return [float(score) for score in scores_B]


def _place(config: Any, label: str | int | None) -> int | None:
    """The number of the label among those of the model; None for a model of one. Raises ConfigError if it has no such label."""
    if config.num_labels == 1 and label is None:
        return None
    place = config.label2id.get(label, label)
    if config.num_labels == 1 or isinstance(place, bool) or not isinstance(place, int) or place not in config.id2label:
        wanted = "leave it out" if config.num_labels == 1 else "name one of them, or its number"
        raise ConfigError(f"kwargs.label is {label!r}, and the reward model has {_labels(config)}: {wanted}")
    return place


def _labels(config: Any) -> str:
    return f"the labels {', '.join(map(str, config.id2label.values()))}" if config.num_labels > 1 else "one label"


@cache
def _loaded(model: str, dtype: str) -> Any:
    """The network and its tokenizer, which pads at the end and cuts at the beginning."""
    if dtype not in DTYPES:
        raise ConfigError(f"kwargs.dtype of reward_model is {dtype!r}: one of {', '.join(DTYPES)} is wanted")
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="right", truncation_side="left")
        network, told = AutoModelForSequenceClassification.from_pretrained(model, dtype=dtype, output_loading_info=True)
    except (ImportError, OSError, ValueError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the reward model {model!r} (kwargs.model) cannot be loaded: take a folder in Hugging Face format or a hub id "
            f"that can be reached: {cause}"
        ) from error
    if missing := sorted(told["missing_keys"]):
        raise ConfigError(f"{model!r} (kwargs.model) is no trained reward model: it has no weights for {missing[0]}")
    _agree_on_padding(network.config.get_text_config(), tokenizer)
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _agree_on_padding(config: Any, tokenizer: Any) -> None:
    """The network reads its score off the last token that is not its own padding: no other token may pad, or none."""
    pad = config.pad_token_id
    known = pad is not None and 0 <= pad < len(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad) if known else None
