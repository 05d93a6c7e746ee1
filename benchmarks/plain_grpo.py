"""The baseline: GRPO as one plain loop in one process, which samples, scores and updates in turn.

    python benchmarks/plain_grpo.py --problem sort --lr 3e-4 --seed 0 --steps 60 --eval-every 5 --out grpo.json

It takes no broker, engine or worker, yet wastes nothing: a prompt is read once for its whole group, keys and values are
cached, finished completions leave the batch, padding is cut by sorting on length, and completions without an advantage
are not trained on. With one update a batch every importance ratio is 1, so the clipped objective of GRPO
(arXiv 2402.03300, eq. 3) without its KL term is the advantage-weighted log-likelihood that stands here.

Legend: B completions, T tokens, V vocabulary.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.rewards.answers.after_hash import after_hash

CONFIGS = Path(__file__).parent.parent / "configs"
TOKENS_PER_PASS = 2048  # what stays in a core's cache: 8192 take twice as long a token


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion: the ids of its prompt, its own, and whether its answer is right."""

    prompt: list[int]
    completion: list[int]
    reward: float


@dataclass(frozen=True, slots=True)
class Line:
    """The state after `step` updates; `wall_s` leaves the evaluations out."""

    step: int
    wall_s: float
    accuracy: float
    eval_tokens: float
    reward: float | None
    tokens_per_s: float
    generating: float


class Policy:
    """The model with its tokenizer."""

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.max_tokens = self.model.config.max_position_embeddings

    def samples(self, rows: list[dict[str, Any]], group: int, generator: torch.Generator) -> list[Sample]:
        """`group` completions of each row, sampled at temperature 1 and scored."""
        prompts = [self._render(row["prompt"]) for row in rows]
        completions = self._generate(prompts, group, generator)
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [
            Sample(prompts[i // group], completion, after_hash(text, rows[i // group]["answer"]))
            for i, (completion, text) in enumerate(zip(completions, texts, strict=True))
        ]

    def logprobs(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        """The log-probability of every token [B, T − 1] given those before it, and 1 where it is a completion's."""
        longest = max(len(s.prompt) + len(s.completion) for s in samples)
        ids_BT = torch.zeros(len(samples), longest, dtype=torch.long)
        mask_BT = torch.zeros(len(samples), longest)
        for row, s in enumerate(samples):
            end = len(s.prompt) + len(s.completion)
            ids_BT[row, :end] = torch.tensor(s.prompt + s.completion)
            mask_BT[row, len(s.prompt) : end] = 1.0
        logits_BTV = self.model(ids_BT[:, :-1]).logits
        nll = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
        return -nll.view(len(samples), -1), mask_BT[:, 1:]

    def _render(self, prompt: str) -> list[int]:
        message = {"role": "user", "content": prompt}
        text = self.tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], group: int, generator: torch.Generator) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, longest - len(prompt) :] = 1
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        output = self.model(ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        cache.batch_repeat_interleave(group)
        logits_BV = output.logits[:, -1].repeat_interleave(group, 0)
        mask_BT, position_B = mask_BT.repeat_interleave(group, 0), positions_BT[:, -1].repeat_interleave(group)
        return self._continue(cache, logits_BV, mask_BT, position_B, generator)

    def _continue(
        self, cache: Any, logits_BV: Tensor, mask_BT: Tensor, position_B: Tensor, generator: torch.Generator
    ) -> list[list[int]]:
        """One token a pass for every completion that has not ended; those that have leave the cache a quarter at a time."""
        completions: list[list[int]] = [[] for _ in logits_BV]
        owner = list(range(len(completions)))
        done_B = torch.zeros(len(owner), dtype=torch.bool)
        for _ in range(self.max_tokens - mask_BT.shape[1]):
            tokens_B = torch.multinomial(logits_BV.softmax(-1), 1, generator=generator).squeeze(1)
            for index, token, done in zip(owner, tokens_B.tolist(), done_B.tolist(), strict=True):
                if not done:
                    completions[index].append(token)
            done_B |= tokens_B == self.tokenizer.eos_token_id
            if done_B.all():
                break
            if 4 * int(done_B.sum()) >= len(owner):
                kept = torch.nonzero(~done_B).squeeze(1)
                cache.batch_select_indices(kept)
                owner = [owner[i] for i in kept.tolist()]
                tokens_B, mask_BT, position_B, done_B = tokens_B[kept], mask_BT[kept], position_B[kept], done_B[kept]
            mask_BT = F.pad(mask_BT, (0, 1), value=1)
            position_B = position_B + 1
            logits_BV = self.model(
                tokens_B[:, None], attention_mask=mask_BT, position_ids=position_B[:, None], past_key_values=cache
            ).logits[:, -1]
        return completions


def advantages(samples: list[Sample], group: int) -> list[float]:
    """(r − mean) / (std + 1e-6) within each group of consecutive samples."""
    values = []
    for start in range(0, len(samples), group):
        rewards = [s.reward for s in samples[start : start + group]]
        mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
        values += [(reward - mean) / (spread + 1e-6) for reward in rewards]
    return values


def update(policy: Policy, optimizer: torch.optim.Optimizer, samples: list[Sample], group: int) -> None:
    """One step up Σ A·log π(token), averaged over every token of the batch."""
    tokens = sum(len(s.completion) for s in samples)
    useful = [pair for pair in zip(samples, advantages(samples, group), strict=True) if pair[1] != 0.0]
    for part in passes(useful):
        logprobs_BT, mask_BT = policy.logprobs([sample for sample, _ in part])
        advantage_B = torch.tensor([advantage for _, advantage in part])
        (-(advantage_B[:, None] * logprobs_BT * mask_BT).sum() / tokens).backward()
    if useful:
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def passes(pairs: list[tuple[Sample, float]]) -> Iterator[list[tuple[Sample, float]]]:
    """The samples from short to long, in parts of about TOKENS_PER_PASS with their padding."""
    part: list[tuple[Sample, float]] = []
    for pair in sorted(pairs, key=lambda pair: len(pair[0].prompt) + len(pair[0].completion)):
        if part and (len(part) + 1) * (len(pair[0].prompt) + len(pair[0].completion)) > TOKENS_PER_PASS:
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


def train(options: argparse.Namespace) -> list[Line]:
    """The whole loop; a line is printed and kept at each evaluation."""
    policy = Policy(options.model or CONFIGS / "models" / options.problem)
    rows = Dataset(DatasetConfig(source=options.problem, seed=options.seed, eval_size=options.eval_size))
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / options.warmup))
    generator = torch.Generator().manual_seed(options.seed)
    wall_s = generating_s = 0.0
    tokens, reward = 0, None
    lines: list[Line] = []
    for step in range(options.steps + 1):
        if step % options.eval_every == 0 or step == options.steps:
            accuracy, length = evaluate(policy, rows, options.seed)
            elapsed_s = max(wall_s, 1e-9)
            lines.append(Line(step, wall_s, accuracy, length, reward, tokens / elapsed_s, generating_s / elapsed_s))
            print_last(lines)
        if step == options.steps:
            break
        batch = [rows.train_row(step * options.prompts + i) for i in range(options.prompts)]
        started = time.perf_counter()
        samples = policy.samples(batch, options.group, generator)
        generating_s += time.perf_counter() - started
        update(policy, optimizer, samples, options.group)
        rate.step()
        wall_s += time.perf_counter() - started
        tokens += sum(len(s.completion) for s in samples)
        reward = statistics.fmean(s.reward for s in samples)
    return lines


def print_last(lines: list[Line]) -> None:
    if len(lines) == 1:
        print("  step   wall_s  accuracy  eval_tok  reward   tok/s  generating")
    x = lines[-1]
    print(
        f"{x.step:6d} {x.wall_s:8.2f} {x.accuracy:9.3f} {x.eval_tokens:9.1f}"
        f" {'' if x.reward is None else format(x.reward, '.3f'):>7} {x.tokens_per_s:7.0f}"
        f" {x.generating:11.2f}",
        flush=True,
    )


def evaluate(policy: Policy, rows: Dataset, seed: int) -> tuple[float, float]:
    """Accuracy at temperature 1 on the held-out rows, and the mean length of the answers."""
    samples = policy.samples(rows.eval_rows(), 1, torch.Generator().manual_seed(seed + 1_000_003))
    return statistics.fmean(s.reward for s in samples), statistics.fmean(len(s.completion) for s in samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problem", default="sort", choices=("sort", "count"))
    parser.add_argument("--model", type=Path, help="default: the model in configs/models of that name")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--eval-size", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=16, help="a step")
    parser.add_argument("--group", type=int, default=8, help="completions of each prompt")
    parser.add_argument("--warmup", type=int, default=5, help="steps over which the rate rises to lr")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = train(options)
    if options.out is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        options.out.write_text(json.dumps({"options": settings, "lines": [asdict(line) for line in lines]}, indent=2))


if __name__ == "__main__":
    main()
