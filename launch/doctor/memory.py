"""What a model needs of memory, learner and engine, against what is here. Estimates, meant to be right by a third.

Legend: P parameters of the model, T those that are trained, b bytes of one in model.dtype (float32 4, else 2).

    learner     b·P, and for what is trained gradients 4T, moments 8T, and of 16 bits a master copy 4T (all by ranks); a
                frozen copy b·P for a KL term without LoRA; a critic of its own as the policy again; activations of a
                micro-batch; and beside it, in the machine's memory, copies for the checkpoint and for the engines
    engine      b·P and the KV cache
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..cluster.cgroups import machine_bytes
from ..cluster.gpus import GpuShares
from ..cluster.transport import weights_bytes
from ..config import RunConfig
from ..models.size import ModelSize
from ..units import GIB, gib
from .finding import Finding, ok, problem, warning

LEARNER_PROCESS = 0.7 * GIB
ENGINE_PROCESS = 1.5 * GIB
RAY_PROCESSES = 0.8 * GIB
"""What these take with a model of next to nothing: their code, and that of torch, vLLM and Ray."""

FULL = 0.9
"""Of what is free, more than this is too near."""

SMALLER = "take LoRA, bfloat16 or model.gradient_checkpointing, lower learner.tokens_per_microbatch or rollout.workers"

LOGITS_AT_ONCE = 2**25


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes. `learner` is of a rank, where it computes; `beside` of a rank in the machine's memory if that is elsewhere.

    engine:  the weights and a KV cache as large as is said, or on a GPU as one answer of full length needs.
    weights: a version as it travels.
    saved:   a checkpoint.
    parts:   what the learner's consist of, in words.
    """

    learner: float
    beside: float
    engine: float
    weights: int
    saved: int
    parts: str


def need_of(config: RunConfig, size: ModelSize, *, on_gpu: bool) -> Need:
    """What a run of this configuration needs of a model of this size."""
    width, ranks = _width(config), config.learner.ranks
    copied = width == 2 and config.model.lora is None  # adapters are in float32
    trained, travels = size.trained(config.model.lora), weights_bytes(config, size)
    weights = width * size.parameters + (travels if config.model.lora is not None else 0)
    moments = trained * (8 + (4 if copied else 0))
    gradients = 4 * trained
    others = _others(config, size)
    activations = _activations(config, size)
    parts = [f"weights {gib(weights)}, gradients, moments and master copies {gib(gradients + moments)}"]
    parts += [f"critic or reference {gib(others)}"] if others else []
    parts += [f"activations {gib(activations)}"] + ([f"over {ranks} ranks"] if ranks > 1 else [])
    return Need(
        learner=(weights + gradients + moments + others) / ranks + activations,
        beside=(3 * travels + moments) / ranks + LEARNER_PROCESS,
        engine=width * size.parameters + _cache(config, size, on_gpu=on_gpu),
        weights=travels,
        saved=travels + moments,
        parts=", ".join(parts),
    )


def _width(config: RunConfig) -> int:
    """Bytes of a weight."""
    return 4 if config.model.dtype == "float32" else 2


def _others(config: RunConfig, size: ModelSize) -> int:
    """Of a frozen reference, and of a critic that is a model of its own."""
    width, lora = _width(config), config.model.lora
    reference = width * size.parameters if config.algorithm.kl.needs_scorer and lora is None else 0
    critic = getattr(config.algorithm.advantage, "critic", None)
    if critic is None or critic.shared:
        return reference
    return reference + size.parameters * (width + 12 + (4 if width == 2 else 0))


def _cache(config: RunConfig, size: ModelSize, *, on_gpu: bool) -> int:
    """Of keys and values: on a GPU one sequence at least, on a CPU what is said, for images none."""
    if config.denoising is not None:
        return 0
    return kv_bytes(config, size) if on_gpu else config.rollout.engine.kv_cache_mib * 2**20


def kv_bytes(config: RunConfig, size: ModelSize) -> int:
    """Keys and values of one sequence of rollout.engine.max_model_len; 0 where the model's config does not say."""
    told = size.text
    heads = told.get("num_attention_heads", 0)
    width = told.get("head_dim") or (told.get("hidden_size", 0) // heads if heads else 0)
    kept = told.get("num_key_value_heads") or heads
    each = 2 * told.get("num_hidden_layers", 0) * kept * width * _width(config)
    return int(each * config.rollout.engine.max_model_len)


def _activations(config: RunConfig, size: ModelSize) -> int:
    """Of one micro-batch, about: per token and layer 8 vectors of the model's width and 4 of the MLP's, and three logits."""
    if config.denoising is not None:
        return 0
    told, tokens = size.text, config.learner.tokens_per_microbatch
    hidden, layers = told.get("hidden_size", 0), told.get("num_hidden_layers", 0)
    layer = 8 * hidden + 4 * told.get("intermediate_size", 4 * hidden)
    kept = layers * hidden + layer if config.model.gradient_checkpointing else layers * layer
    logits = 4 * min(tokens * told.get("vocab_size", 0), LOGITS_AT_ONCE)
    return int(tokens * kept * _width(config) + 3 * logits)


def look_at_memory(config: RunConfig, size: ModelSize | None, gpu_bytes: int, shares: GpuShares) -> Iterator[Finding]:
    """The run's need against this machine, and against a GPU of so many bytes (0: there is none)."""
    if size is None:
        yield unknown(config)
        return
    on_gpu = gpu_bytes > 0
    need = need_of(config, size, on_gpu=on_gpu)
    yield from look_at_size(config, size)
    if on_gpu:
        yield look_at_engine_on(config, need, gpu_bytes)
        yield look_at_learner_on(config, need, gpu_bytes, shares)
    else:
        yield from look_at_kv_cache(config, size)
    yield _in_the_machine(config, need, on_gpu=on_gpu)


def unknown(config: RunConfig) -> Finding:
    """Said in place of all else of a model that is not here."""
    return warning(
        "memory",
        f"how large {config.model.path} is cannot be told: there are no safetensors of it here",
        "look again once it has been downloaded, or converted",
    )


def look_at_size(config: RunConfig, size: ModelSize) -> Iterator[Finding]:
    """How large a model is, and whether an answer of full length fits into it."""
    yield ok("parameters", f"{size.parameters:,}, of which {size.trained(config.model.lora):,} are trained")
    wanted, longest = config.rollout.engine.max_model_len, size.text.get("max_position_embeddings")
    if config.denoising is None and isinstance(longest, int) and longest < wanted and not _is_stretched(size):
        yield problem(
            "lengths",
            f"rollout.engine.max_model_len is {wanted}, and the model knows {longest} positions",
            f"set rollout.engine.max_model_len to {longest} or less",
        )


def look_at_kv_cache(config: RunConfig, size: ModelSize) -> Iterator[Finding]:
    """Whether an answer of full length fits into the KV cache of an engine on a CPU; on a GPU it is what is left there."""
    each, engine = kv_bytes(config, size), config.rollout.engine
    if config.denoising is not None or not each:
        return
    room = engine.kv_cache_mib * 2**20 / each
    seen = f"rollout.engine.kv_cache_mib {engine.kv_cache_mib} holds {room:,.{0 if room >= 10 else 1}f} sequences of max_model_len {engine.max_model_len}"
    if room < 1:
        remedy = f"set rollout.engine.kv_cache_mib to {-(-each // 2**20)} or more, or lower max_model_len"
        yield problem("kv cache", f"{seen}, and vLLM wants one at least", remedy)
    else:
        yield ok("kv cache", seen)


def _is_stretched(size: ModelSize) -> bool:
    """Whether the model's positions are scaled to more than it was trained on."""
    return bool(size.text.get("rope_scaling") or (size.text.get("rope_parameters") or {}).get("factor"))


def of_rank(need: Need, *, on_gpu: bool) -> float:
    """What a rank takes of the machine's memory."""
    return need.beside + (0 if on_gpu else need.learner)


def of_worker(need: Need, *, on_gpu: bool) -> float:
    """What a rollout worker takes of the machine's memory."""
    return ENGINE_PROCESS + (0 if on_gpu else need.engine)


def _in_the_machine(config: RunConfig, need: Need, *, on_gpu: bool) -> Finding:
    learners = config.learner.ranks * of_rank(need, on_gpu=on_gpu)
    engines = config.rollout.workers * of_worker(need, on_gpu=on_gpu)
    wanted, (total, available) = learners + engines + RAY_PROCESSES, machine_bytes()
    seen = f"about {gib(wanted)} wanted (learner {gib(learners)}, engines {gib(engines)}), {gib(available)} of {gib(total)} free"
    if not on_gpu:
        seen += f"; learner: {need.parts}"
    if wanted > total:
        return problem("memory", seen, f"{SMALLER}, or take a machine with more memory")
    if wanted > FULL * available:
        return warning("memory", seen, f"end what else runs here; or {SMALLER}")
    return ok("memory", seen)


def look_at_engine_on(config: RunConfig, need: Need, gpu_bytes: float) -> Finding:
    """Whether an engine fits on GPUs of so many bytes."""
    engine, per_engine = config.rollout.engine, config.rollout.engine.tensor_parallel_size
    share = engine.gpu_memory_utilization
    weights = need.engine / per_engine
    seen = (
        f"an engine needs {gib(weights)} of each of {per_engine} GPU(s) (weights, and one sequence of max_model_len), and "
        f"takes {gib(share * gpu_bytes)} (rollout.engine.gpu_memory_utilization {share:g})"
    )
    if weights <= share * gpu_bytes:
        return ok("gpu memory", seen)
    remedy = "raise rollout.engine.tensor_parallel_size or gpu_memory_utilization, or lower max_model_len"
    return problem("gpu memory", seen, remedy)


def look_at_learner_on(config: RunConfig, need: Need, gpu_bytes: float, shares: GpuShares) -> Finding:
    """A rank's need and the engines' share of one GPU, which they may share."""
    share = config.rollout.engine.gpu_memory_utilization
    engines = 0  # on one GPU that they share
    beside_learner = 0 < shares.learner < 1
    if 0 < shares.rollout < 1:
        engines = round(1 / shares.rollout) - beside_learner
    taken = engines * share * gpu_bytes
    seen = f"the learner needs about {gib(need.learner)} of {gib(gpu_bytes)} ({need.parts})"
    if engines:
        who = "the learner and " if beside_learner else ""
        seen += (
            f"; {who}{engines} engines share one, each takes {share:g} of it (rollout.engine.gpu_memory_utilization)"
        )
    room = gpu_bytes - (need.learner if beside_learner else 0)
    if need.learner > gpu_bytes or room <= 0:
        remedy = "take more learner.ranks, LoRA or model.gradient_checkpointing, or lower learner.tokens_per_microbatch"
        return problem("gpu memory", seen, remedy)
    if taken > room:
        fair = 0.95 * room / engines / gpu_bytes
        return problem(
            "gpu memory", seen, f"set rollout.engine.gpu_memory_utilization to {fair:.2f}, or take more GPUs"
        )
    return ok("gpu memory", seen)
