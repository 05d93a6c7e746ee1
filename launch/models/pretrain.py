"""`areal pretrain`: makes a small model to start from, of text or of images."""

import time
from typing import Any

from ...broker.errors import ConfigError
from ...learner.config import ConsistencyConfig, WarmstartConfig


def execute(config: WarmstartConfig | ConsistencyConfig) -> int:
    """Make the model, saying how far it is; returns the exit code."""
    began = time.monotonic()

    def report(record: dict[str, Any]) -> None:
        numbers = "  ".join(f"{key} {_shown(value)}" for key, value in record.items())
        print(f"{time.monotonic() - began:6.1f} s  {numbers}", flush=True)

    report(_made(config, report))
    print(f"written to {config.output}")
    return 0


def _made(config: WarmstartConfig | ConsistencyConfig, report: Any) -> dict[str, Any]:
    if isinstance(config, WarmstartConfig):
        from ...learner.pretrain import pretrain

        return pretrain(config, report)
    try:
        from ...learner.consistency import make
    except ModuleNotFoundError as error:
        raise ConfigError(f"consistency models need {error.name}: pip install 'areal-rl[images]'") from error
    return make(config, report)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
