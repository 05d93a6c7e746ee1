"""`areal pretrain`: a small Llama that imitates the demonstrations of a synthetic problem.

What comes out is a model to start reinforcement learning from: it can work a problem out, but mostly it guesses.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from ..broker.errors import ConfigError
from ..rewards.answers.after_hash import after_hash
from .config import DatasetConfig, WarmstartConfig
from .dataset import Dataset
from .problems import ANSWER_MARK, PROBLEMS
from .tokenizer import VOCABULARY, character_tokenizer

HEAD_SIZE = 32
MAX_POSITIONS = 512
WARMUP_STEPS = 50
TOKENS_PER_PASS = 2048
REPORT_EVERY = 50
EXAMINED_ROWS = 256
IGNORED = -100

Example = tuple[list[int], int]
"""Token ids of a prompt and its completion, and how many of them are the prompt's."""


def pretrain(config: WarmstartConfig, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Trains the model, writes it to `config.output` and returns how well it does on held-out rows.

    `report` gets {step, loss, tokens, wall_s} now and then. The same configuration gives the same bytes.
    """
    problem = PROBLEMS.get(config.problem)
    if problem is None or problem.prefix is None:
        known = ", ".join(name for name, known in PROBLEMS.items() if known.trace)
        raise ConfigError(f"warmstart.problem: {config.problem!r} has no demonstrations; those that do: {known}")
    torch.set_num_threads(config.threads)
    tokenizer = character_tokenizer(problem.prefix)
    rows = Dataset(DatasetConfig(source=config.problem, seed=config.seed, eval_size=EXAMINED_ROWS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = small_llama(config, tokenizer)
        _make_folder(config.output)
        started = time.perf_counter()
        _imitate(model, _batches(config, rows, tokenizer), config, report)
        model.save_pretrained(config.output)
        tokenizer.save_pretrained(config.output)
        parameters = sum(weight.numel() for weight in model.parameters())
        result = {"output": str(config.output), "parameters": parameters, "wall_s": time.perf_counter() - started}
        return result | _examine(model, tokenizer, rows.eval_rows())


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"warmstart.output: the folder {output} cannot be made: {error}") from error


def small_llama(config: WarmstartConfig, tokenizer: Any) -> Any:
    """A freshly initialised Llama over the character vocabulary."""
    heads, rest = divmod(config.hidden_size, HEAD_SIZE)
    if rest:
        raise ConfigError(f"warmstart.hidden_size: {config.hidden_size} is no multiple of {HEAD_SIZE}")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def _imitate(
    model: Any, batches: Iterator[list[Example]], config: WarmstartConfig, report: Callable[[dict[str, Any]], None]
) -> None:
    """Next-token cross entropy over the completions; AdamW, linear warm-up, then a cosine down to a tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01)
    started, tokens = time.perf_counter(), 0
    for step in range(1, config.steps + 1):
        batch = next(batches)
        actions = sum(len(ids) - given for ids, given in batch)
        loss = 0.0
        for inputs_BT, targets_BT in _passes(batch):
            logits_BTV = model(inputs_BT).logits
            part = F.cross_entropy(
                logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            (part / actions).backward()
            loss += part.item() / actions
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _rate(step, config.steps)
        optimizer.step()
        optimizer.zero_grad()
        tokens += actions
        if step % REPORT_EVERY == 0 or step == config.steps:
            report({"step": step, "loss": loss, "tokens": tokens, "wall_s": time.perf_counter() - started})


def _rate(step: int, steps: int) -> float:
    """The learning rate at a step (from 1), as a share of its peak."""
    if step <= WARMUP_STEPS:
        return step / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.55 + 0.45 * math.cos(math.pi * progress)


def _batches(config: WarmstartConfig, rows: Dataset, tokenizer: Any) -> Iterator[list[Example]]:
    """Batches of fresh demonstrations, without end; no row that is held out occurs in them."""
    problem = PROBLEMS[config.problem]
    rng = Random(config.seed)
    shares = {"lazy_fraction": config.lazy_fraction, "wrong_fraction": config.wrong_fraction}
    for start in itertools.count(step=config.batch_size):
        batch = []
        for position in range(start, start + config.batch_size):
            row = rows.train_row(position)
            question = {"role": "user", "content": row["prompt"]}
            answer = {"role": "assistant", "content": problem.demonstration(row, rng, **shares)}
            prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, tokenize=False)
            text = tokenizer.apply_chat_template([question, answer], tokenize=False)
            batch.append((tokenizer.encode(text), len(prompt)))
        yield batch


def _passes(batch: list[Example]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [B, T], from the shortest examples to the longest so that little of them is padding."""
    ordered = sorted(batch, key=lambda example: len(example[0]))
    while ordered:
        count = len(ordered)
        while count > 1 and count * len(ordered[count - 1][0]) > TOKENS_PER_PASS:
            count -= 1
        yield _padded(ordered[:count])
        ordered = ordered[count:]


def _padded(examples: list[Example]) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids, _ in examples)
    ids_BT = torch.zeros(len(examples), longest, dtype=torch.long)
    targets_BT = torch.full((len(examples), longest), IGNORED)
    for row, (ids, given) in enumerate(examples):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        targets_BT[row, given : len(ids)] = ids_BT[row, given : len(ids)]
    return ids_BT[:, :-1], targets_BT[:, 1:]


def _examine(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy sampled at temperature 1 and greedy, that of the samples with a trace, and the mean length of samples."""
    model.eval()
    questions = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    prompts = [tokenizer.apply_chat_template(question, tokenize=False) for question in questions]
    inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    sampled, greedy = (_complete(model, tokenizer, inputs, do_sample=choice) for choice in (True, False))
    right = [after_hash(text, row["answer"]) for text, row in zip(sampled, rows, strict=True)]
    traced = [hit for hit, text in zip(right, sampled, strict=True) if not text.startswith(ANSWER_MARK)]
    right_greedy = [after_hash(text, row["answer"]) for text, row in zip(greedy, rows, strict=True)]
    return {
        "sampled_accuracy": sum(right) / len(rows),
        "greedy_accuracy": sum(right_greedy) / len(rows),
        "trace_accuracy": sum(traced) / max(1, len(traced)),
        "mean_tokens": sum(len(text) + 1 for text in sampled) / len(rows),
    }


def _complete(model: Any, tokenizer: Any, inputs: Any, *, do_sample: bool) -> list[str]:
    given = inputs["input_ids"].shape[1]
    settings = GenerationConfig(
        do_sample=do_sample,
        max_new_tokens=MAX_POSITIONS - given,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ids_BT = model.generate(**inputs, generation_config=settings)[:, given:]
    texts: list[str] = tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
    return texts
