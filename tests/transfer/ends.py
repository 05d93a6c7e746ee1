"""Both ends of a direct transfer, as the tests have them here or in a process of its own: python ends.py END SPEC.

`engine` prints a line for each version that it has received. `learner` publishes one and stays until it is killed.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client, connect
from areal.broker.config import BrokerConfig
from areal.broker.transport import Held
from areal.broker.weights import Published, WeightStore, open_store
from areal.learner.publisher import Publisher
from areal.learner.sender import Sender
from areal.rollout.receiver import Receiver
from areal.transfer.channel import Channel, Seat, meet
from areal.transfer.line import Manifest

CONFIG = BrokerConfig(weights="direct", weights_kept=3)
LARGE = 12 * 2**20


def weights(seed: int) -> dict[str, Tensor]:
    """Tensors of several dtypes and odd shapes, whose values every process can make."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        "embedding": torch.randn(33, 17, generator=generator, dtype=torch.bfloat16),
        "norm": torch.randn(7, generator=generator),
        "scalar": torch.tensor(float(seed)),
        "none": torch.zeros(0, 5),
        "counts": torch.arange(11, dtype=torch.int64) + seed,
        "mask": torch.tensor([True, False, seed % 2 == 0]),
        "transposed": torch.randn(5, 9, generator=generator).T,
        "half": torch.randn(3, 1, 2, generator=generator, dtype=torch.float16),
    }
    made["nan"] = torch.tensor([float("nan"), -0.0, float("inf")])
    return made


def large(seed: int, count: int = 6) -> dict[str, Tensor]:
    """Some 48 MiB each, of which two do not fit one parcel, nor one of them the buffers of a socket."""
    return {f"layer.{i}": torch.full((LARGE,), float(seed + i)) for i in range(count)}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Equal for tensors that are the same bit for bit, in the same order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Process:
    """One of an engine's, with the methods of PolicyWeights that a Receiver calls."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.channel: Channel | None = None

    def gpu_of_policy(self) -> str:
        return ""

    def meet_the_learner(self, host: str, port: int, prefix: str, backend: Any, own_host: str, count: int) -> None:
        self.channel = None
        self.channel = Channel(meet(host, port, prefix), Seat(1 + self.rank, count, backend, own_host))

    def receive(self, manifest: str, came: Callable[[], None]) -> dict[str, Tensor]:
        assert self.channel is not None
        received = {}
        for name, tensor in self.channel.receive(Manifest.model_validate_json(manifest).tensors or []):
            received[name] = tensor
            came()
        return received


class Engine:
    """Follows a run's weights with some processes, which here are threads."""

    def __init__(self, client: Client, run: str, processes: int = 1) -> None:
        self.store = open_store(client, run, CONFIG, Path("/nowhere"))
        self.processes = [Process(rank) for rank in range(processes)]
        self.receiver = Receiver(self.call)

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        calls = (asyncio.to_thread(getattr(process, method), *arguments) for process in self.processes)
        return list(await asyncio.gather(*calls))

    async def take(self, published: Published, came: Callable[[], None] = lambda: None) -> list[dict[str, Tensor]]:
        """What each process has received of a version."""
        held = await asyncio.to_thread(self.store.fetch, published)
        assert isinstance(held, Held)
        manifest = await self.receiver.ask(held)
        return await self.call("receive", manifest, came)

    async def newest(self, after: int = -1, came: Callable[[], None] = lambda: None) -> tuple[int, dict[str, Tensor]]:
        """The newest version above that one, waited for, as the first process has received it."""
        while True:
            published = await asyncio.to_thread(self.store.wait, after, timeout_s=10.0)
            if published is not None:
                return published.version, (await self.take(published, came))[0]


class Learner:
    """Leads a run, and publishes what it is given."""

    def __init__(self, client: Client, run: str) -> None:
        self.epoch = Bulletin(client, run).lead()
        self.sender = Sender("127.0.0.1")
        self.store: WeightStore = open_store(client, run, CONFIG, Path("/nowhere"), self.sender)
        self.publisher = Publisher(self.store, None, epoch=self.epoch, direct=True)

    def publish(self, version: int, tensors: dict[str, Tensor]) -> None:
        self.publisher.publish(version, tensors)
        self.publisher.wait()


async def be_engine(client: Client, run: str, *, until: int, then: str = "") -> None:
    """Take versions up to one; or die, hang, or hang up and hang, once the first tensor of the first one is there."""
    engine = Engine(client, run)

    def came() -> None:
        print("half", flush=True)
        if then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if then == "hang up":
            engine.receiver.close()
        time.sleep(3600)

    version = -1
    while version < until:
        version, tensors = await engine.newest(version, came if then else lambda: None)
        print(version, fingerprint(tensors), flush=True)
    engine.receiver.close()


def be_learner(client: Client, run: str, *, version: int, dies_at: int = 0) -> None:
    """Publish one version; and be killed before the parcel of that number, of which 0 is none."""
    learner, sent = Learner(client, run), []

    def begin(channel: Channel, buffer: Tensor) -> None:
        if buffer.numel() > 1:
            sent.append(buffer)
            if len(sent) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
        original(channel, buffer)

    original, Channel._begin = Channel._begin, begin  # type: ignore[method-assign]
    learner.publish(version, large(version))
    print("published", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    told = json.loads(sys.argv[2])
    broker = connect(told.pop("url"), timeout_s=10.0)
    if sys.argv[1] == "engine":
        asyncio.run(be_engine(broker, told.pop("run"), **told))
    else:
        be_learner(broker, told.pop("run"), **told)
