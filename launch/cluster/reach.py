"""Whether the nodes of a cluster reach each other, as the ranks of a learner have to.

Each listens at its address, at a port of the system's choosing as ranks do, and all others try to connect there.
"""

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CONNECT_S = 3.0
ANSWER_S = 15.0
"""How long all nodes may take, to listen and then to try."""

AT_ONCE = 64
MANY = 4096

Places = Mapping[str, tuple[str, int]]
"""Where nodes listen, by Ray's ids of them."""


class Ear:
    """An actor on a node."""

    def listen(self, host: str) -> int:
        """The port. Nobody is answered, but connected by the system."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=MANY)
        port: int = self._listening.getsockname()[1]
        return port

    def try_all(self, places: Places) -> dict[str, str]:
        """Those that are not reached from here, and why."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            whys = pool.map(_try, places.values())
            return {node: why for node, why in zip(places, whys, strict=True) if why}


def _try(place: tuple[str, int]) -> str:
    try:
        socket.create_connection(place, timeout=CONNECT_S).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def place_ears(ray: Any, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An actor on each node, by its id."""
    on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    actor = ray.remote(Ear)
    return {
        node["NodeID"]: actor.options(num_cpus=0, scheduling_strategy=on(node["NodeID"], soft=False)).remote()
        for node in nodes
    }


def cut_off(ray: Any, ears: Mapping[str, Any], hosts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Whom each node does not reach, and why; without the nodes that did not say."""
    ports, whys = _answers(ray, {node: ear.listen.remote(hosts[node]) for node, ear in ears.items()})
    places = {node: (hosts[node], port) for node, port in ports.items()}
    deaf = {node: f"it cannot be listened on there: {why}" for node, why in whys.items()}
    tried, _ = _answers(ray, {node: ears[node].try_all.remote(_but(node, places)) for node in (*places, *deaf)})
    return {node: {**missed, **_but(node, deaf)} for node, missed in tried.items()}


def _but(node: str, others: Mapping[str, Any]) -> dict[str, Any]:
    return {other: told for other, told in others.items() if other != node}


def _answers(ray: Any, asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What came in time, and what the system had against it; a node that has died, or lacks this file, is left out."""
    if not asked:
        return {}, {}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S / 2)
    answers: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for node, ref in asked.items():
        if ref not in ready:
            continue
        try:
            answers[node] = ray.get(ref)
        except Exception as error:
            if isinstance(error, OSError):
                errors[node] = str(getattr(error, "cause", error))
    return answers, errors
