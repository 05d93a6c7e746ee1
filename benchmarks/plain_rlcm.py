"""The baseline: RL of a consistency model as one plain loop in one process, which samples, scores and updates in turn.

    python benchmarks/plain_rlcm.py --seed 0 --steps 60 --out rlcm.json

As DDPO and RLCM have it (arXiv 2305.13301, 2404.03673): a batch of images is sampled step by step with their
log-probabilities, scored, compared with what each prompt has earned so far, and learned from in minibatches with PPO's clip
around the policy that sampled. It takes no broker, worker or process of its own for rewards, and no pass for π_prox. What
would hold it back needlessly is put right as in areal: densities are sums, and the last, noiseless step is no action.
`--last-step` trains on the reference's last step after all. `--latency` is what a server takes to judge a batch, in seconds.

Legend: M images, H actions of each.
"""

import argparse
import io
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor

from areal.denoising.classes import ClassModel
from areal.denoising.config import DenoisingConfig
from areal.denoising.models import load_image_model
from areal.denoising.noise import Noise
from areal.denoising.sampler import sample

DIGITS = Path(__file__).parent.parent / "configs" / "models" / "digits"
CLASSES, GROUP, STEPS = 10, 16, 4
MEMORY, LEAST = 32, 16
CLIP = 0.2
EVALUATED = 400


class Loop:
    """The model, its optimiser, and what each class has earned."""

    def __init__(self, lr: float, seed: int, *, last_step: bool, latency_s: float) -> None:
        torch.manual_seed(seed)
        self.model: Any = load_image_model(str(DIGITS), DenoisingConfig(steps=STEPS))
        self.network: Any = self.model.network
        layers = [name for name, layer in self.network.named_modules() if isinstance(layer, torch.nn.Linear)]
        self.network.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=layers, init_lora_weights="gaussian"))
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.earned = [deque[float](maxlen=MEMORY) for _ in range(CLASSES)]
        self.generator = torch.Generator().manual_seed(seed)
        self.last_step, self.latency_s = last_step, latency_s
        self.levels = self.model.schedule.levels(STEPS)

    def step(self) -> float:
        """A batch, and two updates on it; returns its mean reward."""
        labels = torch.arange(CLASSES).repeat_interleave(GROUP)
        latents, old_HM, clean = self.sample(labels, self.generator)
        rewards = np.array(rewarded(self.model, clean))
        time.sleep(self.latency_s)
        advantages = torch.from_numpy(self.compare(labels.tolist(), rewards)).float()
        order = torch.randperm(len(labels), generator=self.generator)
        for chosen in order.chunk(2):
            self.update([each[chosen] for each in latents], labels[chosen], advantages[chosen], old_HM[:, chosen])
        return float(rewards.mean())

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator) -> tuple[list[Tensor], Tensor, Tensor]:
        """The latents of each image, from noise on, float32[H, M] log-probabilities, and the images."""
        denoise = self.model.denoise([{"label": int(label)} for label in labels])
        x = torch.randn(len(labels), *self.model.latent_shape, generator=generator)
        latents, logprobs = [x], []
        for level, then in zip(self.levels, self.targets(), strict=False):
            scale, std = self.model.schedule.target(torch.tensor([then]))
            mean = scale * denoise(x, torch.full((len(x),), level))
            x = mean + std * torch.randn(x.shape, generator=generator)
            latents.append(x)
            logprobs.append(log_density(x, mean, std))
        last = latents[len(self.levels) - 1]
        return latents, torch.stack(logprobs), denoise(last, torch.full((len(x),), self.levels[-1]))

    def targets(self) -> list[int]:
        """The level that each action leads to; the reference's last step leads to where it began."""
        return [*self.levels[1:], *([self.levels[-1]] if self.last_step else [])]

    def logprobs(self, latents: list[Tensor], labels: Tensor) -> Tensor:
        """float32[H, M], summed over the dimensions."""
        denoise = self.model.denoise([{"label": int(label)} for label in labels])
        found = []
        for step, (level, then) in enumerate(zip(self.levels, self.targets(), strict=False)):
            scale, std = self.model.schedule.target(torch.tensor([then]))
            mean = scale * denoise(latents[step], torch.full((len(labels),), level))
            found.append(log_density(latents[step + 1], mean, std))
        return torch.stack(found)

    def compare(self, labels: list[int], rewards: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The reward in deviations of what its class has earned; of the batch, while that is little."""
        for label, reward in zip(labels, rewards, strict=True):
            self.earned[label].append(float(reward))
        known = [np.array(earned) if len(earned) >= LEAST else rewards for earned in self.earned]
        means = np.array([known[label].mean() for label in labels])
        return (rewards - means) / (np.array([known[label].std() for label in labels]) + 1e-6)

    def update(self, latents: list[Tensor], labels: Tensor, advantages: Tensor, old_HM: Tensor) -> None:
        """PPO's clip around the policy that sampled."""
        ratio_HM = (self.logprobs(latents, labels) - old_HM).exp()
        clipped_HM = ratio_HM.clamp(np.exp(-CLIP), np.exp(CLIP))
        loss = -torch.minimum(ratio_HM * advantages, clipped_HM * advantages).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()


def evaluate(model: Any) -> float:
    """The mean reward of images of a policy as it is now, of noise that is always the same."""
    denoise = model.denoise([{"label": number % CLASSES} for number in range(EVALUATED)])
    noise = Noise(range(EVALUATED), model.latent_shape)
    return float(np.mean(rewarded(model, sample(denoise, model.schedule, model.schedule.levels(STEPS), noise).clean)))


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """float32[M], summed over the dimensions."""
    return torch.distributions.Normal(mean, std).log_prob(x).flatten(1).sum(1)


def rewarded(model: ClassModel, clean: Tensor) -> list[float]:
    """Kilobytes of a JPEG, below 0."""
    found = []
    for image in model.decode(clean):
        written = io.BytesIO()
        image.save(written, "JPEG", quality=95)
        found.append(-len(written.getvalue()) / 1000)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=1)
    parser.add_argument("--last-step", action="store_true")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loop = Loop(options.lr, options.seed, last_step=options.last_step, latency_s=options.latency)
    lines: list[dict[str, float]] = []
    wall_s = cpu_s = 0.0
    for step in range(1, options.steps + 1):
        began, began_cpu = time.perf_counter(), time.process_time()
        loop.step()
        wall_s += time.perf_counter() - began
        cpu_s += time.process_time() - began_cpu
        if step % options.eval_every == 0:
            lines.append({"step": step, "wall_s": wall_s, "cpu_s": cpu_s, "reward": evaluate(loop.model)})
    options.out.write_text(json.dumps({"lines": lines}) + "\n")


if __name__ == "__main__":
    main()
