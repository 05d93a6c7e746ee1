"""How the ranks of a learner come together: at a torch.distributed store of the leader's, found through the broker.

    leader   listens, announces the place for its epoch, waits until every seat is taken
    others   look the place up, take their seat there; a seat that was taken is of a learner about to end: they look again

Whoever reaches the place can speak to the ranks: on one machine it is on the loopback, elsewhere the network that they
are on is trusted, as torch.distributed needs.
"""

import logging
import socket
import time
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..broker.errors import DeadlineExceeded
from ..broker.meeting import Meeting, Place
from .ranks import Ranks, join

logger = logging.getLogger(__name__)

MUSTER_S = 300.0
"""How long ranks wait for each other to come: Ray places them, they load their libraries."""

LOOK_EVERY_S = 0.25
CONNECT_S = 2.0
STORE_TIMEOUT = timedelta(seconds=60)


def lead(meeting: Meeting, *, epoch: int, host: str, count: int) -> Ranks:
    """The ranks as the leader sees them, all there. Raises DeadlineExceeded, naming who is missing."""
    with socket.create_server((host, 0)) as listening:
        port = listening.getsockname()[1]
        store = TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=STORE_TIMEOUT,
            master_listen_fd=listening.detach(),
        )
    meeting.announce(Place(epoch, host, port, count))
    deadline = time.monotonic() + MUSTER_S
    for rank in range(1, count):
        try:
            store.wait([_seat(rank)], timedelta(seconds=max(LOOK_EVERY_S, deadline - time.monotonic())))
        except torch.distributed.DistStoreError as error:
            raise DeadlineExceeded(
                f"rank {rank} of the learner (learner.ranks is {count}) did not come within {MUSTER_S:g} s; "
                f"see logs/learner-{rank}.log"
            ) from error
    return join(store, rank=0, count=count, host=host)


def follow(meeting: Meeting, rank: int) -> Ranks:
    """The ranks as this one sees them. Raises DeadlineExceeded if no leader has a seat for it."""
    deadline, refused = time.monotonic() + MUSTER_S, {0}
    while time.monotonic() < deadline:
        place = meeting.place()
        store = _connected(place) if place is not None and place.epoch not in refused else None
        if place is not None and store is not None:
            if store.add(_seat(rank), 1) == 1:
                return join(store, rank=rank, count=place.count, host=place.host)
            logger.info("the seat of rank %d is taken in epoch %d; waiting for another", rank, place.epoch)
            refused.add(place.epoch)
        time.sleep(LOOK_EVERY_S)
    raise DeadlineExceeded(f"rank {rank} found no learner to follow within {MUSTER_S:g} s; see logs/learner.log")


def _connected(place: Place) -> Any:
    """The store at a place; None if nobody listens there."""
    try:
        socket.create_connection((place.host, place.port), timeout=CONNECT_S).close()
        return TCPStore(place.host, place.port, is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT)
    except (OSError, torch.distributed.DistError):
        return None


def _seat(rank: int) -> str:
    return f"seat/{rank}"
