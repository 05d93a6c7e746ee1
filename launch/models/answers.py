"""What the model of a configuration answers to rows, as it is before any training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...rollout.config import SamplingConfig
from ..config import RunConfig
from .export import hush
from .path import resolve_model

Row = dict[str, Any]


def texts_of(config: RunConfig, rows: Sequence[Row], *, each: int) -> list[list[tuple[str, dict[str, Any]]]]:
    """So many sampled answers to each row, each with what is known of it, by transformers: slowly, and without vLLM."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ...rollout.workflow import render

    hush()
    torch.manual_seed(config.seed)
    path = _path(config)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path).eval()
    sampling = config.rollout.sampling
    limits: dict[str, Any] = {
        "max_new_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "do_sample": True,
        "top_k": 0,
    }
    if sampling.stop:
        limits |= {"stop_strings": sampling.stop, "tokenizer": tokenizer}
    answers = []
    for row in rows:
        prompt = torch.tensor([render(row, tokenizer)])
        with torch.inference_mode():
            made = model.generate(prompt, attention_mask=torch.ones_like(prompt), num_return_sequences=each, **limits)
        answers.append([_told(tokens, tokenizer, sampling) for tokens in made[:, prompt.shape[1] :].tolist()])
    return answers


def images_of(config: RunConfig, rows: Sequence[Row], *, each: int) -> list[list[Any]]:
    """So many images of each row, PIL."""
    import torch
    from PIL import Image

    from ...denoising.models import load_image_model
    from .sample import make_images

    assert config.denoising is not None
    hush()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, config.model.dtype)
    model = load_image_model(_path(config), config.denoising, dtype=dtype, device=device)
    requests = [(row, number, member) for number, row in enumerate(rows) for member in range(each)]
    with torch.no_grad():
        pictures = make_images(model, config.denoising, requests, config.seed, lambda _: None)
    images = [Image.fromarray(picture) for picture in pictures]
    return [images[first : first + each] for first in range(0, len(images), each)]


def _path(config: RunConfig) -> str:
    return str(resolve_model(config.model.path, Path.cwd(), pipeline=config.denoising is not None))


def _told(tokens: list[int], tokenizer: Any, sampling: SamplingConfig) -> tuple[str, dict[str, Any]]:
    """An answer up to its end-of-text token, or to the first of the strings that end it."""
    end = tokenizer.eos_token_id
    length = tokens.index(end) + 1 if end in tokens else len(tokens)
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
    begun = min((text.index(stop) for stop in sampling.stop if stop in text), default=None)
    reason = "stop" if end in tokens or begun is not None else "length"
    return text[:begun], {"num_tokens": length, "max_tokens": sampling.max_tokens, "finish_reason": reason}
