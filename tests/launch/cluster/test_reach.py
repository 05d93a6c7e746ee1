"""Nodes that try to reach each other, by addresses on the loopback."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from areal.launch.cluster import reach
from areal.launch.cluster.reach import Ear, cut_off, place_ears


@dataclass
class Calls:
    """An Ear as Ray would have it: what is called is done at once; a node that is `mute` never answers."""

    ear: Ear
    mute: bool = False

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            try:
                return SimpleNamespace(mute=self.mute, answer=getattr(self.ear, name)(*arguments))
            except OSError as error:
                return SimpleNamespace(mute=self.mute, answer=error)

        return SimpleNamespace(remote=remote)


class Ray:
    """Answers what is there."""

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(refs) > 0
        return [ref for ref in refs if not ref.mute], [ref for ref in refs if ref.mute]

    def get(self, ref: Any) -> Any:
        if isinstance(ref.answer, Exception):
            raise ref.answer
        return ref.answer


@pytest.fixture
def ears() -> Iterator[dict[str, Calls]]:
    """One on each node."""
    each = {node: Calls(Ear()) for node in HOSTS}
    yield each
    for calls in each.values():
        if (listening := vars(calls.ear).get("_listening")) is not None:
            listening.close()


HOSTS = {"n0": "127.0.0.1", "n1": "127.0.0.2", "n2": "127.0.0.3"}


def test_nodes_reach_each_other(ears: dict[str, Calls]) -> None:
    assert cut_off(Ray(), ears, HOSTS) == {"n0": {}, "n1": {}, "n2": {}}


def test_a_node_that_cannot_be_listened_on_is_cut_off_from_all(ears: dict[str, Calls]) -> None:
    told = cut_off(Ray(), ears, HOSTS | {"n1": "192.0.2.1"})
    assert told["n1"] == {} and set(told["n0"]) == set(told["n2"]) == {"n1"}
    assert "cannot be listened on there" in told["n0"]["n1"] and "192.0.2.1" not in told


def test_a_node_whose_port_is_closed_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "refused" in Ear().try_all({"n1": ("127.0.0.1", port)})["n1"]

    def time_out(*arguments: Any, **options: Any) -> None:
        assert options["timeout"] == reach.CONNECT_S
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", time_out)
    assert Ear().try_all({"n1": ("127.0.0.1", port)}) == {"n1": "TimeoutError"}


def test_a_node_that_does_not_answer_is_not_known_of(ears: dict[str, Calls]) -> None:
    ears["n1"].mute = True
    assert cut_off(Ray(), ears, HOSTS) == {"n0": {}, "n2": {}}
    assert cut_off(Ray(), {}, {}) == {}


def test_each_node_has_an_actor_which_counts_for_nothing() -> None:
    asked: list[dict[str, Any]] = []

    class Actor:
        def options(self, **options: Any) -> Any:
            asked.append(options)
            return SimpleNamespace(remote=lambda: "actor")

    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
    ray = SimpleNamespace(remote=lambda kind: Actor(), util=SimpleNamespace(scheduling_strategies=strategies))
    assert place_ears(ray, [{"NodeID": "n0"}, {"NodeID": "n1"}]) == {"n0": "actor", "n1": "actor"}
    assert asked == [{"num_cpus": 0, "scheduling_strategy": (node, False)} for node in ("n0", "n1")]
