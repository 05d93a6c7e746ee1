"""Which rows still teach: neither always nor never answered rightly, as far as is known."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from ..broker.errors import ConfigError
from .algorithm.config import SolvedConfig
from .dataset import Dataset


@dataclass(slots=True)
class Record:
    """Answers to a row, how many of them were right, and the epoch of the last."""

    answers: int = 0
    right: int = 0
    epoch: int = 0


class SolveRates:
    """How often each row has been answered rightly, over epochs; without a configuration nothing is kept, and all teach."""

    def __init__(self, config: SolvedConfig | None, dataset: Dataset) -> None:
        if config is not None and dataset.num_rows is None:
            raise ConfigError(
                "algorithm.filters.solved is for rows that come again, and those of dataset.source are made on the fly: "
                "leave it out, or take a .jsonl file"
            )
        self._config = config or SolvedConfig()
        self._dataset = dataset
        self._is_on = config is not None
        self._records: dict[str, Record] = {}

    def note(self, position: int, rewards: Sequence[float]) -> None:
        """Count the answers to the row that this position issued. What was known before a retry is forgotten."""
        if not self._is_on:
            return
        row, epoch = self._row(position)
        record = self._records.setdefault(row, Record(epoch=epoch))
        if self._decided(record) and self._due(record, epoch):
            record.answers = record.right = 0
        record.answers += len(rewards)
        record.right += sum(reward >= self._config.right_at for reward in rewards)
        record.epoch = max(record.epoch, epoch)

    def teaches(self, position: int) -> bool:
        """Whether to issue this position: its row is undecided, or due to be tried again."""
        if not self._is_on:
            return True
        row, epoch = self._row(position)
        record = self._records.get(row)
        return record is None or not self._decided(record) or self._due(record, epoch)

    def _row(self, position: int) -> tuple[str, int]:
        return str(self._dataset.identity(position)), self._dataset.epoch(position)

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
