"""A consistency model as an engine: requests that come together are sampled together, whatever rows they are of.

    generate ─▶ waiting ─▶ a batch, in a thread ─▶ samples
                              │ between batches: new weights

A batch runs to its end under the weights that it began with, so one version makes a whole image; an update waits for it,
and requests wait for an update.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..broker.errors import ArealError, EngineDied, EngineError
from ..broker.transport import Source
from ..denoising.config import DenoisingConfig
from .engine import ImageRequest, Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """What an engine starts from: a pipeline of diffusers, the type of its weights, and the adapter that it will be sent."""

    path: str
    dtype: str
    rank: int
    alpha: float
    targets: list[str] | str


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, what the network is given for its row, and what becomes of it."""

    request: ImageRequest
    condition: dict[str, Any]
    sample: asyncio.Future[Sample]


class ConsistencyEngine:
    """One pipeline. Weights are a folder as `broker.weights` publishes them: an adapter of PEFT."""

    def __init__(self, model: AdaptedModel, config: DenoisingConfig, *, timeout_s: float, threads: int = 1) -> None:
        self._spec = model
        self._config = config
        self._timeout_s = timeout_s
        self._threads = threads
        self._version = -1
        self._model: Any = None
        self._adapter: Any = None
        self._waiting: deque[_Asked] = deque()
        self._arrived = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._sampling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the pipeline; raises EngineError where it cannot be."""
        try:
            await asyncio.to_thread(self._load)
        except (ArealError, ImportError, OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"the image engine did not start with {self._spec.path}: {error}") from error
        self._version = -1
        self._sampling = asyncio.create_task(self._sample_for_ever())

    async def generate(self, request: ImageRequest) -> Sample:
        """One image; raises EngineDied if the engine stops or hangs first, EngineError if it cannot be made."""
        if self._sampling is None:
            raise EngineDied("the engine is not running")
        try:
            condition = self._model.condition(request.row)
        except ArealError as error:  # here, where it fails nobody else's image
            raise EngineError(f"no image can be made of a row: {error}") from error
        sample: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(request, condition, sample))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await sample
        except TimeoutError as error:
            raise EngineDied(f"no image within {self._timeout_s:g} s (rollout.engine.timeout_s)") from error

    async def update_weights(self, version: int, source: Source) -> float:
        """Load the adapter at `source`, a folder, between two batches; returns the seconds for which requests stood still.

        Raises EngineDied if anything goes wrong: what the engine then holds is unknown, and it must be started again.
        """
        if self._sampling is None:
            raise EngineDied("the engine is not running")
        try:
            async with asyncio.timeout(self._timeout_s), self._at_work:
                began = time.perf_counter()
                await asyncio.to_thread(self._adapter.load_folder, source)
                self._version = version
                return time.perf_counter() - began
        except Exception as error:
            raise EngineDied(f"version {version} could not be loaded: {error!r}") from error

    async def stop(self) -> None:
        """Let go of the model; requests that wait fail with EngineDied."""
        task, self._sampling = self._sampling, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail(self._waiting, EngineDied("the engine was stopped"))
        self._waiting.clear()
        self._model = self._adapter = None

    async def _sample_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(0)  # whoever asks for a whole group does so within one round of the loop
            async with self._at_work:
                batch = self._next_batch()
                if batch:
                    await self._answer(batch)

    def _next_batch(self) -> list[_Asked]:
        """The oldest requests that somebody still waits for."""
        batch: list[_Asked] = []
        while self._waiting and len(batch) < self._config.max_batch:
            asked = self._waiting.popleft()
            if not asked.sample.done():
                batch.append(asked)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: Sequence[_Asked]) -> None:
        if self._version < 0:
            return self._fail(batch, EngineError("an image was asked for before the first weights were loaded"))
        try:
            made = await asyncio.to_thread(self._make, batch, self._version)
        except asyncio.CancelledError:
            self._fail(batch, EngineDied("the engine was stopped"))
            raise
        except Exception as error:
            logger.exception("a batch of %d images failed", len(batch))
            return self._fail(batch, EngineError(f"{len(batch)} images could not be made: {error}"))
        for asked, one in zip(batch, made, strict=True):
            if not asked.sample.done():
                asked.sample.set_result(one)

    def _fail(self, batch: Iterable[_Asked], error: ArealError) -> None:
        for asked in batch:
            if not asked.sample.done():
                asked.sample.set_exception(error)

    def _load(self) -> None:
        import torch

        from ..denoising.adapter import Adapter
        from ..denoising.models import load_image_model

        torch.set_num_threads(self._threads)
        spec, device = self._spec, "cuda" if torch.cuda.is_available() else "cpu"
        self._model = load_image_model(spec.path, self._config, dtype=getattr(torch, spec.dtype), device=device)
        self._adapter = Adapter(self._model.network, rank=spec.rank, alpha=spec.alpha, targets=spec.targets)
        self._levels = self._model.schedule.levels(self._config.steps)
        self._device = device

    def _make(self, batch: Sequence[_Asked], version: int) -> list[Sample]:
        """A sample for each request; in a thread of its own."""
        import torch

        from ..denoising.noise import Noise
        from ..denoising.sampler import sample

        model, requests = self._model, [asked.request for asked in batch]
        conditions = [asked.condition for asked in batch]
        starts = [request.seed if request.start is None else request.start for request in requests]
        noise = Noise([request.seed for request in requests], model.latent_shape, starts=starts)
        wire = getattr(torch, self._config.wire)
        with torch.no_grad():
            chain = sample(
                model.denoise(conditions), model.schedule, self._levels, noise, wire=wire, device=self._device
            )
            images = model.decode(chain.clean)
        latents, logprobs = chain.latents.cpu().numpy(), chain.logprobs.cpu().numpy()
        levels = np.array(chain.levels, np.int32)
        return [
            Sample(
                image=image,
                latents=np.ascontiguousarray(latents[:, place]),
                levels=levels,
                logprobs=np.ascontiguousarray(logprobs[:, place]),
                version=version,
                condition=conditions[place],
                guidance=self._config.guidance,
            )
            for place, image in enumerate(images)
        ]
