"""What the broker costs above Redis itself: complete → take → acknowledge, against SET and GET of the same bytes.

    python benchmarks/broker.py            prints a table, writes benchmarks/results/broker.json

Both go through the same server in the same run, turn by turn in random order, and the medians are compared. A group's
way through the broker includes encoding, decoding and validation; the bare way is a SET for each, a pipeline of GETs and
one UNLINK with redis-py and hiredis as they come. The latency is that of a single group, from the call that completes its
prompt until it has been taken; the bare one that of a SET and a GET.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from areal.broker.bulletin import Bulletin
from areal.broker.client import connect
from areal.broker.codec import decode_group, encode_group
from areal.broker.config import BrokerConfig
from areal.broker.lane import Lane
from areal.broker.server import EmbeddedRedis
from areal.broker.tickets import Lease, Tickets
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory

RESULTS = Path(__file__).parent / "results" / "broker.json"
SIZES = {"1 KB": (1, 96), "16 KB": (4, 500), "256 KB": (16, 2000), "4 MB": (64, 8120)}
"""Trajectories and tokens of each, a tenth of them the prompt's."""

BATCH_BYTES, MAX_BATCH = 16 * 2**20, 64


@dataclass(frozen=True)
class Parties:
    """A worker, a learner, and one who knows nothing of either."""

    tickets: Tickets
    lane: Lane
    bare: "redis.Redis[bytes]"
    epoch: int


class Times(NamedTuple):
    """Seconds of one batch: until it has been taken, and until it is gone."""

    taken: float
    gone: float


def group_of(prompt_id: int, trajectories: int, tokens: int) -> Group:
    """Random tokens, all but the first tenth sampled, half of them under version 8 and half under 9."""
    rng = np.random.default_rng(prompt_id)
    given = tokens // 10
    half = (tokens - given) // 2
    versions = np.array([NOT_AN_ACTION] * given + [8] * half + [9] * (tokens - given - half), np.int32)
    return Group(
        prompt_id,
        tuple(
            TokenTrajectory(
                rng.integers(0, 150_000, tokens, dtype=np.int32),
                versions,
                np.where(versions >= 0, -rng.random(tokens), 0).astype(np.float32),
                1.0,
                {"correct": 1.0},
            )
            for _ in range(trajectories)
        ),
        "rollout-0",
        1.0,
        2.0,
    )


def lease_batch(parties: Parties, count: int) -> list[Lease]:
    """As many prompts, issued and leased; not measured."""
    first = parties.lane.depth().issued
    prompts = [Prompt(first + i, 0, 1, {"prompt": "x"}) for i in range(count)]
    parties.lane.issue(prompts, after=first, epoch=parties.epoch)
    leases: list[Lease] = []
    while len(leases) < count:
        leases += parties.tickets.lease("rollout-0", count=count - len(leases), timeout_s=1)
    return leases


class Broker:
    """Groups on their way through the broker, a batch at a time."""

    def __init__(self, parties: Parties, groups: list[Group]) -> None:
        self._parties = parties
        self._groups = groups
        self._after = "0"

    def __call__(self) -> Times:
        leases = lease_batch(self._parties, len(self._groups))
        groups = [_numbered(group, lease.prompt.id) for group, lease in zip(self._groups, leases, strict=True)]
        lane, taken = self._parties.lane, []
        began = time.perf_counter()
        for lease, group in zip(leases, groups, strict=True):
            assert self._parties.tickets.complete(lease, group)
        while len(taken) < len(groups):
            deliveries, self._after = lane.take(self._after, count=len(groups), timeout_s=1)
            taken += deliveries
        there = time.perf_counter()
        lane.acknowledge([delivery.receipt for delivery in taken], epoch=self._parties.epoch)
        return Times(there - began, time.perf_counter() - began)


class Bare:
    """The same bytes through SET and GET; `together` of them in a round trip on their way in."""

    def __init__(self, parties: Parties, bodies: list[bytes], *, together: int) -> None:
        self._redis = parties.bare
        self._bodies = bodies
        self._together = together

    def __call__(self) -> Times:
        names = [f"bare:{index}" for index in range(len(self._bodies))]
        began = time.perf_counter()
        for first in range(0, len(names), self._together):
            with self._redis.pipeline(transaction=False) as pipe:
                for name, body in zip(names[first:], self._bodies[first : first + self._together], strict=False):
                    pipe.set(name, body)
                pipe.execute()
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.get(name)
            pipe.execute()
        there = time.perf_counter()
        self._redis.unlink(*names)
        return Times(there - began, time.perf_counter() - began)


def _numbered(group: Group, prompt_id: int) -> Group:
    return Group(prompt_id, group.trajectories, group.worker, group.started_at, group.finished_at)


def measure(parties: Parties, name: str, rounds: int) -> dict[str, Any]:
    """One row: medians over `rounds`, the ways taken in turn."""
    shape = SIZES[name]
    size = len(encode_group(group_of(0, *shape)))
    count = max(1, min(MAX_BATCH, BATCH_BYTES // size))
    groups = [group_of(index, *shape) for index in range(count)]
    bodies = [encode_group(group) for group in groups]
    ways: dict[str, Callable[[], Times]] = {
        "broker": Broker(parties, groups),
        "bare": Bare(parties, bodies, together=1),
        "bare_pipelined": Bare(parties, bodies, together=count),
    }
    one_by_one = {"broker": Broker(parties, groups[:1]), "bare": Bare(parties, bodies[:1], together=1)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    latency: dict[str, list[float]] = {way: [] for way in one_by_one}
    for turn in range(rounds + 1):
        for way in random.sample(list(ways), len(ways)):
            seconds[way].append(ways[way]().gone)
        for way in random.sample(list(one_by_one) * 8, 16):
            latency[way].append(one_by_one[way]().taken)
        if turn == 0:  # to warm up
            seconds, latency = {way: [] for way in ways}, {way: [] for way in one_by_one}
    taken = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "size": name,
        "bytes": size,
        "groups_in_a_batch": count,
        "groups_per_s": count / taken["broker"],
        "mb_per_s": {way: count * size / s / 1e6 for way, s in taken.items()},
        "ratio_to_bare": ratio(seconds["bare"], seconds["broker"]),
        "ratio_to_bare_pipelined": ratio(seconds["bare_pipelined"], seconds["broker"]),
        "latency_ms_p50": {way: 1e3 * statistics.median(values) for way, values in latency.items()},
    }


def ratio(bare: list[float], ours: list[float]) -> float:
    """The median of the turns' ratios: what else the machine did in a turn slowed both."""
    return statistics.median(b / o for b, o in zip(bare, ours, strict=True))


def measure_codec(rounds: int = 60) -> dict[str, float]:
    """Encoding and decoding a group of 16 trajectories of 8,192 tokens, one thread."""
    group = group_of(0, 16, 8192)
    encoding, decoding = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        body = encode_group(group)
        encoded = time.perf_counter()
        decode_group(body)
        encoding.append(encoded - began)
        decoding.append(time.perf_counter() - encoded)
    seconds = statistics.median(encoding) + statistics.median(decoding)
    sampled = sum(trajectory.num_actions for trajectory in group.trajectories)
    given = sum(len(trajectory.tokens) for trajectory in group.trajectories) - sampled
    return {
        "bytes": len(body),
        "encode_gb_per_s": len(body) / statistics.median(encoding) / 1e9,
        "decode_gb_per_s": len(body) / statistics.median(decoding) / 1e9,
        "both_gb_per_s": len(body) / seconds / 1e9,
        "bytes_per_sampled_token": (len(body) - 4 * given) / sampled,
    }


def parties_on(url: str) -> Parties:
    client = connect(url)
    epoch = Bulletin(client, "bench").lead()
    tickets = Tickets(client, "bench", "train", BrokerConfig(lease_s=600))
    return Parties(tickets, Lane(client, "bench", "train"), redis.Redis.from_url(url), epoch)


def show(rows: list[dict[str, Any]], codec: dict[str, float]) -> None:
    table = Table("group", "groups/s", "MB/s", "bare MB/s", "pipelined", "ratio", "to pipelined", "added ms p50")
    for row in rows:
        speed, latency = row["mb_per_s"], row["latency_ms_p50"]
        table.add_row(
            row["size"],
            f"{row['groups_per_s']:,.0f}",
            *(f"{speed[way]:,.0f}" for way in ("broker", "bare", "bare_pipelined")),
            f"{row['ratio_to_bare']:.2f}",
            f"{row['ratio_to_bare_pipelined']:.2f}",
            f"{latency['broker'] - latency['bare']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"codec, 16 x 8,192 tokens: {codec['encode_gb_per_s']:.2f} GB/s in, {codec['decode_gb_per_s']:.2f} GB/s out, "
        f"{codec['both_gb_per_s']:.2f} both; {codec['bytes_per_sampled_token']:.2f} bytes per sampled token"
    )


@contextmanager
def running_server() -> Iterator[EmbeddedRedis]:
    """One that lives as long as the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns that each way is taken (default 15)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    codec = measure_codec()
    with running_server() as server:
        parties = parties_on(server.url)
        rows = [measure(parties, name, options.rounds) for name in SIZES]
        redis_version = parties.bare.info("server")["redis_version"]
    show(rows, codec)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("redis", "hiredis", "numpy", "msgpack")} | {"server": redis_version}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"command": "python benchmarks/broker.py", "machine": machine, "versions": versions, "codec": codec}
    options.output.write_text(json.dumps(result | {"rounds": options.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
