"""vLLM as an Engine, on CPU or GPU: continuous batching, and weights that change under requests in flight.

An update pauses the scheduler with its requests kept, drops all cached keys and values (prefix cache included), loads,
and resumes: a request in flight goes on under the new weights over a context recomputed with them. vLLM itself stamps
each token with the version that sampled it.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..broker.errors import BrokerError, EngineDied, EngineError
from ..broker.transport import Held, Source
from .config import EngineConfig
from .engine import Completion, Request
from .receiver import Receiver

T = TypeVar("T")

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine process hosts its worker itself: one process fewer
    "TORCHDYNAMO_DISABLE": "1",  # compiling the log-probability kernel costs 3 s at the first request
    "TOKENIZERS_PARALLELISM": "false",
}
SHUTDOWN_S = 0.3
ALIVE_EVERY_S = 0.5
ADAPTER = "policy"
ADAPTER_ID = 1


@dataclass(frozen=True, slots=True)
class EngineModel:
    """The model an engine starts from: folder or hub id, dtype, and the rank of the adapter it will be sent (0: none)."""

    path: str
    dtype: str
    lora_rank: int = 0


class VllmEngine:
    """One AsyncLLM. Weights are what `broker.weights` publishes: a folder of a checkpoint's tensors or of an adapter; or
    tensors that the learner holds, which come straight into the model, layer by layer."""

    def __init__(self, model: EngineModel, config: EngineConfig, *, threads: int = 1, seed: int = 0) -> None:
        self._model = model
        self._config = config
        self._threads = threads
        self._seed = seed
        self._version = -1
        self._ids = itertools.count()
        self._llm: Any = None
        self._tokenizer: Any = None
        self._lora: Any = None
        self._started = False
        self._receiver = Receiver(self._call)
        self._requests: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Load the model; raises EngineError with vLLM's own reason where it cannot."""
        os.environ.update(QUIET | {"OMP_NUM_THREADS": str(self._threads)})
        try:
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be imported ({error}). On a GPU: pip install 'areal-rl[gpu]'; on a CPU: make setup"
            ) from error
        try:
            config = AsyncEngineArgs(**self._arguments()).create_engine_config()
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = self._start_method()
            self._llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
            self._tokenizer = self._llm.get_tokenizer()
        except Exception as error:
            raise EngineError(f"vLLM did not start with model {self._model.path}: {error}") from error

    async def generate(self, request: Request) -> Completion:
        """One completion; raises EngineDied if the engine dies first or hangs, EngineError if it refuses."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if self._llm is None:
            raise EngineDied("the engine is not running")
        task = asyncio.ensure_future(self._last_output(request))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                output = await task
        except asyncio.CancelledError:
            if _is_cancelled_itself():
                raise
            raise EngineDied("the engine was stopped under a request") from None
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineDied(f"the engine died under a request: {error!r}") from error
        except TimeoutError as error:
            raise EngineDied(f"no answer within {self._config.timeout_s:g} s (rollout.engine.timeout_s)") from error
        except ValueError as error:
            raise EngineError(f"vLLM refused a prompt of {len(request.prompt_tokens)} tokens: {error}") from error
        if output is None or output.outputs[0].finish_reason not in ("stop", "length"):
            raise EngineError("a request ended without an answer")
        return self._completion(output.outputs[0])

    async def update_weights(self, version: int, source: Source) -> float:
        """Load the weights at `source` under requests in flight; returns the seconds for which these stood still.

        Raises BrokerError where a learner does not hand them out: the engine goes on with what it has. Raises EngineDied if
        anything goes wrong after that: what it then holds is unknown, and it must be started again.
        """
        if self._llm is None:
            raise EngineDied("the engine is not running")
        manifest = await self._asked(source) if isinstance(source, Held) else None
        began = time.perf_counter()
        check = self._receiver.require_open if manifest is not None else lambda: None
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._while_alive(self._replace_weights(version, source, manifest), check)
        except Exception as error:
            raise EngineDied(f"version {version} could not be loaded: {error!r}") from error
        self._version = version
        return time.perf_counter() - began

    async def stop(self) -> None:
        """End every process of the engine; who waits for an answer gets EngineDied, and from vLLM, if paused, not a word."""
        for task in list(self._requests):
            task.cancel()
        self._receiver.close()
        if self._llm is not None:
            self._llm.shutdown(timeout=SHUTDOWN_S)
            self._llm = None

    def _start_method(self) -> str:
        """Fork spares a CPU engine the second import of vLLM, which takes longer than all else at its start.

        Only the first time, while this process is young: a fork copies the locks that other threads hold.
        """
        import torch

        method = "spawn" if torch.cuda.is_available() or self._started else "fork"
        self._started = True
        return method

    async def _last_output(self, request: Request) -> Any:
        """vLLM's output of a request: of its stream only the final one is sent."""
        stream = self._llm.generate(
            {"prompt_token_ids": list(request.prompt_tokens)},
            self._sampling(request),
            request_id=f"{self._version}-{next(self._ids)}",
            lora_request=self._lora,
        )
        outputs = [output async for output in stream]
        return outputs[-1] if outputs else None

    async def _while_alive(self, work: Coroutine[Any, Any, T], check: Callable[[], object] = lambda: None) -> T:
        """Do what calls the engine's process: vLLM leaves such a call unanswered for ever if that process dies.

        `check` raises where there is another reason to wait no longer.
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=ALIVE_EVERY_S))[0]:
                self._require_alive()
                check()
            return task.result()
        finally:
            task.cancel()

    def _require_alive(self) -> None:
        if self._llm is None or self._llm.errored:
            raise EngineDied("the engine died meanwhile")

    async def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Have the engine's processes do what leaves its weights alone. Raises BrokerError where they cannot."""
        try:
            answers: list[Any] = await self._while_alive(self._llm.collective_rpc(method, args=arguments))
        except EngineDied:
            raise
        except Exception as error:
            self._require_alive()
            raise BrokerError(f"the engine says: {error}") from error
        return answers

    async def _asked(self, source: Held) -> str:
        """The manifest of what now waits in the channel, the engine being as it was. Raises BrokerError, or EngineDied."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await self._receiver.ask(source)
        except TimeoutError as error:
            raise EngineDied(f"it has not met the learner within {self._config.timeout_s:g} s") from error

    async def _replace_weights(self, version: int, source: Source, manifest: str | None) -> None:
        await self._llm.pause_generation(mode="keep", clear_cache=True)
        if isinstance(source, Held):
            await self._llm.collective_rpc("receive_policy_weights", args=(manifest,))
        else:
            await self._load(source)
        await self._llm.update_weight_version(str(version))
        await self._llm.resume_generation()

    async def _load(self, path: Path) -> None:
        if self._model.lora_rank == 0:
            await self._llm.collective_rpc("load_policy_weights", args=(str(path),))
            return
        from vllm.lora.request import LoRARequest

        # In place under one id, so that requests in flight continue with it. The request that generates must not carry
        # load_inplace: it would read the file again for every request.
        await self._llm.add_lora(LoRARequest(ADAPTER, ADAPTER_ID, str(path), load_inplace=True))
        self._lora = LoRARequest(ADAPTER, ADAPTER_ID, str(path))

    def _arguments(self) -> dict[str, Any]:
        import torch

        config = self._config
        arguments: dict[str, Any] = {
            "model": self._model.path,
            "dtype": self._model.dtype,
            "seed": self._seed,
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "tensor_parallel_size": config.tensor_parallel_size,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "worker_extension_cls": "areal.rollout.vllm_weights.PolicyWeights",
        }
        if torch.cuda.is_available():
            arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
        else:
            arguments |= {"kv_cache_memory_bytes": config.kv_cache_mib * 2**20, "enforce_eager": True}
        if self._model.lora_rank:
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank_of(self._model.lora_rank)}
        return arguments | config.args

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # No seed: a seeded request whose prefill is chunked, as after a weight update, kills the CPU engine.
        return SamplingParams(
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            stop=list(request.stop),
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(request.stop),  # token by token only where a stop string is looked for
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completion(self, output: Any) -> Completion:
        versions = np.empty(len(output.token_ids), np.int32)
        for span in output.weight_versions:
            versions[span.start : span.end] = int(span.version) if span.version != "default" else -1
        if (versions < 0).any():
            raise EngineError("a token was sampled before the first weights were loaded")
        return Completion(
            tokens=np.array(output.token_ids, np.int32),
            logprobs=np.minimum(np.array(output.logprobs.logprobs, np.float32), 0.0),
            versions=versions,
            text=output.text or self._tokenizer.decode(output.token_ids, skip_special_tokens=True),
            finish_reason=output.finish_reason,
        )


def _lora_rank_of(rank: int) -> int:
    """The smallest rank vLLM has kernels for that holds `rank`."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


def _is_cancelled_itself() -> bool:
    """Whether this task is, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
