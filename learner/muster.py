"""How the ranks of a learner come together, at a torch.distributed store of the leader's found through the broker, and part.

    leader   listens, announces the place for its epoch, waits until every rank has answered from its seat
    others   look the place up, take their seat there, and answer whether they see the leader's run directory; a seat
             that was taken is of a learner about to end: they look again

What they say there bears the token of the place: whoever listens at that port by then, only ranks that have read the same
announcement meet. It is no password. On one machine the place is on the loopback, elsewhere the network that the ranks
are on is trusted, as torch.distributed needs.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from ..broker.errors import ConfigError, DeadlineExceeded
from ..broker.meeting import Meeting, Place
from .ranks import Ranks, join

logger = logging.getLogger(__name__)

MUSTER_S = 300.0
"""How long ranks wait for each other to come: Ray places them, they load their libraries."""

SEE_S = 30.0
"""How long a file may take to be seen by the other nodes of a shared file system."""

PART_S = 60.0
"""How long the leader stays for the others, who have nothing left to do but to leave."""

LOOK_EVERY_S = 0.25
CONNECT_S = 2.0
STORE_TIMEOUT = timedelta(seconds=60)

LEADER = "leader"


def lead(meeting: Meeting, *, epoch: int, host: str, count: int, directory: Path) -> Ranks:
    """The ranks as the leader sees them, all there, with the same run directory.

    Raises DeadlineExceeded, naming who is missing, and ConfigError, naming who has another directory.
    """
    tcp = listening(host)
    place = Place(epoch, host, tcp.port, count)
    store = PrefixStore(place.token, tcp)
    store.set(LEADER, "")
    with _token_in(directory, place.token):
        meeting.announce(place)
        _await_answers(store, count)
    return join(store, rank=0, count=count, host=host)


def follow(meeting: Meeting, rank: int, *, host: str, directory: Path) -> Ranks:
    """The ranks as this one sees them, which the others reach at `host`. Raises DeadlineExceeded if no leader has a seat for it, and ConfigError if
    the leader's run directory is not this one."""
    deadline, refused = time.monotonic() + MUSTER_S, set[str]()
    while time.monotonic() < deadline:
        place = meeting.place()
        store = _connected(place) if place is not None and place.token not in refused else None
        if place is not None and store is not None:
            if store.add(_seat(rank), 1) == 1:
                _answer(store, rank, _token_file(directory, place.token))
                return join(store, rank=rank, count=place.count, host=host)
            logger.info("the seat of rank %d is taken in epoch %d; waiting for another", rank, place.epoch)
            refused.add(place.token)
        time.sleep(LOOK_EVERY_S)
    raise DeadlineExceeded(f"rank {rank} found no learner to follow within {MUSTER_S:g} s; see logs/learner.log")


def leave(ranks: Ranks) -> None:
    """Part from the others, with nothing on the way any more; the leader stays until they have gone, or for so long."""
    if ranks.company is None:
        return
    store = ranks.company.store
    if ranks.leads:
        _await_departures(store, ranks.count)
    else:
        with contextlib.suppress(dist.DistError):  # the leader has not stayed, and nothing depends on it
            store.set(_gone(ranks.rank), "")
    dist.destroy_process_group()


def listening(host: str) -> TCPStore:
    """A store of this process's, at a free port of that address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        return TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=STORE_TIMEOUT,
            master_listen_fd=listening.detach(),
        )


def _connected(place: Place) -> Store | None:
    """The store at a place; None if nobody listens there, or another than who announced it."""
    try:
        socket.create_connection((place.host, place.port), timeout=CONNECT_S).close()
        tcp = TCPStore(place.host, place.port, is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT)
        store = PrefixStore(place.token, tcp)
        return store if store.check([LEADER]) else None
    except (OSError, dist.DistError):
        return None


@contextmanager
def _token_in(directory: Path, token: str) -> Iterator[None]:
    """While this lasts, a file of that name is among the run's checkpoints, for the other ranks to find."""
    file = _token_file(directory, token)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _await_answers(store: Store, count: int) -> None:
    deadline = time.monotonic() + MUSTER_S
    for rank in range(1, count):
        if not _comes(store, _answer_of(rank), deadline):
            raise DeadlineExceeded(
                f"rank {rank} of the learner (learner.ranks is {count}) did not come within {MUSTER_S:g} s; "
                f"see logs/learner-{rank}.log"
            )
        refusal = store.get(_answer_of(rank)).decode()
        if refusal:
            raise ConfigError(refusal)


def _answer(store: Store, rank: int, file: Path) -> None:
    """Tell the leader whether its file can be seen from here. Raises ConfigError if not."""
    deadline = time.monotonic() + SEE_S
    while not file.exists():
        if time.monotonic() > deadline:
            refusal = (
                f"the ranks of a learner must share the run directory, and rank {rank}, on {socket.gethostname()}, does "
                f"not find in {file.parent.parent} what the leader has written there: put the run on a file system that "
                "all of their nodes see, or set learner.ranks to 1"
            )
            store.set(_answer_of(rank), refusal)
            raise ConfigError(refusal)
        time.sleep(LOOK_EVERY_S)
    store.set(_answer_of(rank), "")


def _await_departures(store: Store, count: int) -> None:
    deadline = time.monotonic() + PART_S
    for rank in range(1, count):
        if not _comes(store, _gone(rank), deadline):
            logger.warning("rank %d has not left within %g s; see logs/learner-%d.log", rank, PART_S, rank)


def _comes(store: Store, key: str, deadline: float) -> bool:
    """Whether a key is there before the deadline, or a moment from now."""
    try:
        store.wait([key], timedelta(seconds=max(LOOK_EVERY_S, deadline - time.monotonic())))
    except dist.DistStoreError:
        return False
    return True


def _token_file(directory: Path, token: str) -> Path:
    return directory / "checkpoints" / f".{token}.meeting"


def _seat(rank: int) -> str:
    return f"seat/{rank}"


def _answer_of(rank: int) -> str:
    return f"answer/{rank}"


def _gone(rank: int) -> str:
    return f"gone/{rank}"
