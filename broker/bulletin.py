"""What the roles tell the driver (records), and what the driver tells the roles (an order)."""

import json
import logging
from typing import Any

from . import scripts
from .client import LONGEST_BLOCK_S, Client, stream_entries
from .keys import Keys

logger = logging.getLogger(__name__)

MAX_RECORDS = 100_000
MAX_BEFORE = 5_000
RUN, LEAVE, DRAIN = "run", "leave", "drain"
"""Work; take nothing new and end when what is under way is done; hand back what is under way and end."""
TOLD = {"told": True}
"""The `extra` of a log record whose words are reported here as well."""


class Bulletin:
    """The run's notice board."""

    def __init__(self, client: Client, run: str) -> None:
        keys = self._keys = Keys(run)
        self._client: Any = client
        self._records = keys.records
        self._order = keys.order
        self._epoch = keys.epoch
        self._lead: Any = client.register_script(scripts.LEAD)

    def report(self, record: dict[str, Any]) -> None:
        """Post a record of JSON values; see launch/records/tally.py for the kinds."""
        self._client.xadd(self._records, {"record": json.dumps(record)}, maxlen=MAX_RECORDS, approximate=True)

    def read(self, after: str, *, timeout_s: float, count: int = 1000) -> tuple[list[dict[str, Any]], str]:
        """The records posted after entry `after` ("0" for the oldest), and where to go on from."""
        block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S)))
        entries = stream_entries(self._client.xread({self._records: after}, count=count, block=block_ms))
        records = [record for _, fields in entries if (record := _record(fields)) is not None]
        return records, entries[-1][0] if entries else after

    def last(self) -> str:
        """The entry of the newest record, to read only what comes after."""
        newest = self._client.xrevrange(self._records, count=1)
        return newest[0][0].decode() if newest else "0"

    def before(self, last: str, seconds: float) -> list[dict[str, Any]]:
        """The newest records up to entry `last`, of so many seconds before it."""
        first = max(0, int(last.partition("-")[0]) - round(1000 * seconds))
        entries = self._client.xrevrange(self._records, max=last, min=f"{first}-0", count=MAX_BEFORE)
        return [record for _, fields in reversed(entries) if (record := _record(fields)) is not None]

    def keep_order(self, word: str) -> None:
        """See that every role is told what to do; said again and again, as Redis may lose its last second."""
        if self.ordered() != word:
            self._client.set(self._order, word)

    def ordered(self) -> str:
        """The order in force."""
        word = self._client.get(self._order)
        return DRAIN if word == DRAIN.encode() else RUN

    def ordered_of(self, worker: str) -> str:
        """The order in force for one worker, who may have been told to leave a run that goes on; see broker/fleet.py."""
        words = self._client.mget(self._order, self._keys.leave(worker))
        if DRAIN.encode() in words:
            return DRAIN
        return LEAVE if words[1] == LEAVE.encode() else RUN

    def lead(self, after: int = 0) -> int:
        """Begin a new epoch as the run's learner, above `after`, and end every earlier one's; by the time, in Unix ms."""
        return int(self._lead(keys=[self._epoch], args=[after]))


def _record(fields: dict[bytes, bytes]) -> dict[str, Any] | None:
    try:
        record = json.loads(fields.get(b"record", b""))
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and {"kind", "time"} <= record.keys():
        return record
    logger.warning("a record that is none was left out: %.200r", fields)
    return None
