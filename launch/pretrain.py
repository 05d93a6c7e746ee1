"""`areal pretrain`: makes the small model of a synthetic problem."""

import time
from typing import Any

from ..learner.config import WarmstartConfig


def execute(config: WarmstartConfig) -> int:
    """Make the model, saying how far it is; returns the exit code."""
    from ..learner.pretrain import pretrain

    began = time.monotonic()

    def report(record: dict[str, Any]) -> None:
        numbers = "  ".join(f"{key} {_shown(value)}" for key, value in record.items())
        print(f"{time.monotonic() - began:6.1f} s  {numbers}", flush=True)

    report(pretrain(config, report))
    print(f"written to {config.output}")
    return 0


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
