"""Which rows still teach: neither always nor never answered rightly, as far as is known."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from .algorithm.config import SolvedConfig
from .algorithm.running import Key


@dataclass(slots=True)
class Record:
    """Answers to a row, how many of them were right, and the epoch of the last."""

    answers: int = 0
    right: int = 0
    epoch: int = 0


class SolveRates:
    """How often each row has been answered rightly, over epochs."""

    def __init__(self, config: SolvedConfig) -> None:
        self._config = config
        self._records: dict[str, Record] = {}

    def note(self, row: Key, rewards: Sequence[float], *, epoch: int) -> None:
        """Count the answers to a row, issued in this epoch. What was known before a retry is forgotten."""
        record = self._records.setdefault(str(row), Record(epoch=epoch))
        if self._decided(record) and self._due(record, epoch):
            record.answers = record.right = 0
        record.answers += len(rewards)
        record.right += sum(reward >= self._config.right_at for reward in rewards)
        record.epoch = max(record.epoch, epoch)

    def teaches(self, row: Key, *, epoch: int) -> bool:
        """Whether to issue the row in this epoch: it is undecided, or due to be tried again."""
        record = self._records.get(str(row))
        return record is None or not self._decided(record) or self._due(record, epoch)

    def state(self) -> dict[str, list[int]]:
        """What `load` takes back, of JSON values."""
        return {row: list(astuple(record)) for row, record in self._records.items()}

    def load(self, state: dict[str, list[int]]) -> None:
        """Replace what is known by what `state` gave."""
        self._records = {row: Record(*numbers) for row, numbers in state.items()}

    def _decided(self, record: Record) -> bool:
        if record.answers < self._config.min_answers:
            return False
        rate = record.right / record.answers
        return rate <= self._config.never_below or rate >= self._config.always_above

    def _due(self, record: Record, epoch: int) -> bool:
        return self._config.retry_epochs > 0 and epoch - record.epoch >= self._config.retry_epochs
