"""The classes of a set of pictures, as prompts."""

from ...broker.errors import ConfigError
from .config import PartConfig
from .rows import Row, Shuffle
from .shape import Shape

DIGITS = "digits"


class Classes:
    """Classes of images, each as often: every epoch is a permutation of its own. What is held out is noise, and no class."""

    def __init__(self, count: int, part: PartConfig, key: str, *, seed: int, held_out: int) -> None:
        if part.curriculum is not None:
            raise ConfigError(f"{key}.curriculum: the classes of {part.source} are none harder than the other")
        self.num_rows = count
        self._shape, self._held_out = Shape(part, key), held_out
        self._shuffle = Shuffle(count, seed)

    def train_row(self, position: int) -> Row:
        return self._row(self.identity(position))

    def identity(self, position: int) -> int:
        return self._shuffle(*divmod(position, self.num_rows))

    def epoch(self, position: int) -> int:
        return position // self.num_rows

    def eval_rows(self) -> list[Row]:
        return [self._row(number % self.num_rows) for number in range(self._held_out)]

    def _row(self, label: int) -> Row:
        return self._shape({"prompt": str(label), "label": label}, f"class {label}")
