"""Keeps a learner whose epoch is over from changing anything: another one leads the run."""

from typing import Any

import redis

from .client import Client
from .errors import Fenced
from .keys import Keys


def fenced(script: Any, keys: list[str], args: list[Any]) -> Any:
    """Run a script that only the learner of the current epoch, its first argument, may run; raises Fenced for any other."""
    try:
        return script(keys=keys, args=args)
    except redis.ResponseError as error:
        if "FENCED" not in str(error):
            raise
        raise Fenced(f"this learner's epoch {args[0]} is over ({error}): another learner leads the run now") from error


def require_lead(client: Client, run: str, epoch: int) -> None:
    """Raises Fenced if a later learner leads; a learner whose beginning Redis has lost still does."""
    leading: Any = client.get(Keys(run).epoch)
    if int(leading or 0) > epoch:
        raise Fenced(
            f"this learner's epoch {epoch} is over: another learner leads the run now, in epoch {int(leading)}"
        )
