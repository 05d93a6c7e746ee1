"""How long a version of the weights takes from the learner to an engine: through a directory, and directly from memory.

    python benchmarks/weights.py            prints a table, writes benchmarks/results/weights.json

A Llama of the shapes of SmolLM2-135M (random weights, float32, 538 MB), a real Redis, the learner's publisher in a process of
its own, and here a worker's engine (vLLM) with requests in flight, which follows the versions as a run's does. The two ways
take turns. *Loaded* counts from the order to publish until the engine has resumed under the version; the *pause* is the part of
it for which requests stood still: with a directory the weights are on the disk by then, directly they come during it.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from checkpoint import SMOLLM2
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from areal.broker.bulletin import Bulletin
from areal.broker.client import connect
from areal.broker.config import BrokerConfig
from areal.broker.server import EmbeddedRedis
from areal.broker.weights import open_store
from areal.learner.publisher import Publisher
from areal.learner.sender import Sender
from areal.rollout.config import EngineConfig
from areal.rollout.engine import Request
from areal.rollout.follower import WeightFollower
from areal.rollout.vllm_engine import EngineModel, VllmEngine

RESULTS = Path(__file__).parent / "results" / "weights.json"
WAYS = ("directory", "direct")
ENGINE = EngineConfig(max_model_len=512, max_num_seqs=8, kv_cache_mib=256, args={"block_size": 32})


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SMOLLM2, bos_token_id=None, eos_token_id=None)).save_pretrained(folder)
    words = Tokenizer(WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(folder)


def learn(model: Path, url: str, orders: Connection) -> None:
    """Publish the model's weights under each version that is ordered, by the way that is said; tell when that began."""
    torch.set_num_threads(1)
    client, sender = connect(url, timeout_s=30.0), Sender("127.0.0.1")
    weights = dict(LlamaForCausalLM.from_pretrained(model).state_dict())
    weights.pop("lm_head.weight")  # tied
    publishers = {}
    for way in WAYS:
        store = open_store(client, way, BrokerConfig(weights=way), model.parent / "weights", sender)
        publishers[way] = Publisher(store, None, epoch=Bulletin(client, way).lead(), direct=way == "direct")
    while True:
        way, number = orders.recv()
        copies = {name: tensor.clone() for name, tensor in weights.items()}
        began = time.monotonic()
        publishers[way].publish(number, copies)
        publishers[way].wait()
        orders.send((began, time.monotonic() - began))


async def measure(model: Path, url: str, orders: Connection, rounds: int) -> list[dict[str, Any]]:
    engine = VllmEngine(EngineModel(str(model), "float32"), ENGINE)
    await engine.start()
    client = connect(url, timeout_s=30.0)
    found = []
    for number in range(-1, rounds):
        for way in WAYS:
            store = open_store(client, way, BrokerConfig(weights=way), model.parent / "weights")
            follower = WeightFollower(store, engine, timeout_s=60.0)
            follower.version = number  # of this way
            requests = [
                asyncio.create_task(engine.generate(Request((1, 2), 40, 1.0))) for _ in range(4 * (number >= 0))
            ]
            await asyncio.sleep(0.5)
            orders.send((way, number + 1))
            following = asyncio.create_task(follower.follow())
            await follower.at_least(number + 1)
            loaded = time.monotonic()
            following.cancel()
            began, published_s = await asyncio.to_thread(orders.recv)
            if number >= 0:
                (pause_s,) = follower.drain_pauses()
                found.append({"way": way, "published": published_s, "loaded": loaded - began, "pause": pause_s})
            await asyncio.gather(*requests)
    await engine.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="(default 7)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, server = Path(folder) / "model", EmbeddedRedis(Path(folder) / "redis")
        save_model(model)
        here, there = get_context("spawn").Pipe()
        learner = get_context("spawn").Process(target=learn, args=(model, server.start(), there), daemon=True)
        learner.start()
        try:
            rounds = asyncio.run(measure(model, server.url, here, options.rounds))
        finally:
            learner.kill()
            server.stop()
    medians = {
        way: {
            what: median(each[what] for each in rounds if each["way"] == way)
            for what in ("published", "loaded", "pause")
        }
        for way in WAYS
    }
    table = Table("", "published, s", "loaded, s", "pause, s", title="medians")
    for way, made in medians.items():
        table.add_row(way, *(f"{made[what]:.2f}" for what in ("published", "loaded", "pause")))
    Console().print(table)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[1]}
    versions = {name: version(name) for name in ("torch", "safetensors")} | {"python": platform.python_version()}
    result = {"command": "python benchmarks/weights.py", "machine": machine, "versions": versions}
    options.output.write_text(json.dumps(result | {"medians_s": medians, "rounds_s": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
