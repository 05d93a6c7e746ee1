"""How hard a row may be, by its position."""

from .config import CurriculumConfig


class Schedule:
    """How hard a row may be at a position: start + (end − start)·s/steps at stage s = min(steps, ⌊steps·p/positions⌋)."""

    def __init__(self, config: CurriculumConfig, end: float) -> None:
        self._config, self._end = config, end

    def stage(self, position: int) -> int:
        return min(self._config.steps, self._config.steps * position // self._config.positions)

    def begin(self, stage: int) -> int:
        """The first position of a stage."""
        return -(-stage * self._config.positions // self._config.steps)

    def at_stage(self, stage: int) -> float:
        """The greatest difficulty of a stage."""
        if stage == self._config.steps:
            return self._end
        return self._config.start + (self._end - self._config.start) * stage / self._config.steps
