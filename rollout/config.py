"""What can be said about rollout workers in a configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SamplingConfig(BaseModel):
    """How tokens are sampled. There is no top-p or top-k: π_behav would then lack tokens that π_θ has."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(1.0, gt=0, description="divides the logits, at the learner too")
    max_tokens: int = Field(256, ge=1, description="longest answer; a longer one is cut and marked as such")
    stop: list[str] = Field(
        default_factory=list, description="strings that end an answer, beside the end-of-text token"
    )


class EngineConfig(BaseModel):
    """vLLM's own settings."""

    model_config = ConfigDict(extra="forbid")

    max_model_len: int = Field(2048, ge=1, description="longest prompt and answer together, in tokens")
    max_num_seqs: int = Field(256, ge=1, description="sequences decoded at once")
    kv_cache_mib: int = Field(512, ge=16, description="memory for the KV cache on a CPU")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1, description="share of a GPU's memory that vLLM takes")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one engine")
    timeout_s: float = Field(
        600.0, gt=0, description="an engine that takes longer for an answer or an update is restarted"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="further fields of vLLM's AsyncEngineArgs, as they are"
    )


class RolloutConfig(BaseModel):
    """The workers that turn prompts into groups."""

    model_config = ConfigDict(extra="forbid")

    workers: int = Field(1, ge=1, description="rollout workers, each with an engine of its own")
    group_size: int = Field(
        8,
        ge=1,
        le=4096,
        description="answers sampled for each prompt (G), each other's baseline; 1 where the advantage needs none",
    )
    max_concurrent: int = Field(256, ge=1, description="answers that one worker has under way at once, about")
    weights_timeout_s: float = Field(600.0, gt=0, description="how long to wait for the learner's weights")
    workflow: str = Field("single_turn", description="single_turn, or ./file.py:Class for one of your own")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    threads: int = Field(1, ge=1, description="CPU threads of an engine; more than its cores slows it up to 80 times")
