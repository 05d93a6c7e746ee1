"""The runs that a Redis holds, as their keys tell; each sees its own alone."""

import re
from collections import Counter
from typing import Any

from .client import Client
from .errors import BrokerError
from .keys import PREFIX, Keys

SCAN_COUNT = 1000
MAX_ROUNDS = 5
RUN_OF_KEY = re.compile(re.escape(PREFIX) + r"\{(.+?)\}:")


def list_runs(client: Client) -> list[str]:
    """The names of the runs that have any key, sorted."""
    return sorted(count_keys(client))


def count_keys(client: Client) -> Counter[str]:
    """How many keys each of the runs has that have any."""
    keys: Any = client.scan_iter(match=f"{PREFIX}{{*}}:*", count=SCAN_COUNT)
    found = (RUN_OF_KEY.match(key.decode(errors="replace")) for key in set(keys))  # a scan may bring a key twice
    return Counter(match[1] for match in found if match)


def purge(client: Client, run: str) -> int:
    """Delete all keys of a run that nobody works on any more; returns how many. Raises BrokerError if it is written to."""
    gone = 0
    for _ in range(MAX_ROUNDS):
        keys = _keys_of(client, run)
        if not keys:
            return gone
        for first in range(0, len(keys), SCAN_COUNT):
            gone += int(client.unlink(*keys[first : first + SCAN_COUNT]))
    raise BrokerError(f"{run} is being written to: its keys came back {MAX_ROUNDS} times. Stop it first")


def _keys_of(client: Client, run: str) -> list[bytes]:
    escaped = re.sub(r"([\\*?\[\]^-])", r"\\\1", run)
    return list(client.scan_iter(match=Keys(escaped).of("*"), count=SCAN_COUNT))
