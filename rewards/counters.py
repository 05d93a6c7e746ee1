"""What rewards count beside their scores: requests, tokens, money.

    count("judge_requests")            within a reward function, as often as it likes
        │ sent along with the answer of the call, also with that of one that failed
        ▼
    pool.counters ──▶ worker records ──▶ reward_counters of summary.json

What a process had counted when it was killed is lost. What cannot be a count is left out, and never costs a score.
"""

import logging
import math
import threading
from numbers import Real
from typing import Any

MAX_NAMES = 64
MAX_NAME_CHARS = 64
WANTED = f"at most {MAX_NAMES} names of up to {MAX_NAME_CHARS} printable characters count, by finite amounts from 0 on"

logger = logging.getLogger(__name__)

_counted: dict[str, float] = {}
_counting = threading.Lock()


def count(name: str, amount: float = 1.0) -> None:
    """Add to a counter of this run."""
    with _counting:
        sound = _add(_counted, name, amount)
    if not sound:
        logger.warning("a count is left out: %s", WANTED)


def drain() -> dict[str, float]:
    """What this process has counted since it was asked last."""
    with _counting:
        drained = dict(_counted)
        _counted.clear()
    return drained


def add(totals: dict[str, float], counted: Any) -> None:
    """Add what a process has counted to the totals, or as much of it as are counts."""
    sound = isinstance(counted, dict) and len(counted) <= MAX_NAMES
    left_out = [name for name, amount in counted.items() if not _add(totals, name, amount)] if sound else [...]
    if left_out:
        logger.warning("%d counts of a reward are left out, as %.100r: %s", len(left_out), left_out[0], WANTED)


def _add(totals: dict[str, float], name: Any, amount: Any) -> bool:
    """Whether it could be added."""
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_NAME_CHARS):
        return False
    if name not in totals and len(totals) >= MAX_NAMES:
        return False
    total = totals.get(name, 0.0) + _number(amount)
    if not math.isfinite(total):
        return False
    totals[name] = total
    return True


def _number(amount: Any) -> float:
    """The amount; NaN for what is none."""
    try:
        number = float(amount) if isinstance(amount, Real) else math.nan
    except Exception:  # of a type of the user's, or an integer too large
        return math.nan
    return number if number >= 0 else math.nan
