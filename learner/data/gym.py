"""Rows of reasoning_gym (arXiv 2505.24760): tasks made and judged by programs, more than a hundred of them."""

import contextlib
import io
import random
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import Any

import numpy as np

from ...broker.errors import ConfigError
from ...rewards.answers.harmless import harmless
from ...rewards.answers.reasoning_gym import load_gym, written
from .rows import Row, nearest

CHUNK = 500
"""Rows that one of its data sets is asked for. A task's row i of seed s is mostly row i − 1 of seed s + 1, and some tasks
prepare all rows of a data set at once: so the seeds of ours lie far apart, and each is of few rows."""
CACHED = 4
ALL = "all"
LEVEL = "level"
_OURS = ("seed", "size")


def tasks_of(names: str, kwargs: dict[str, Any], key: str) -> list[str]:
    """The tasks that are named, separated by commas; of `all`, every one. Raises ConfigError."""
    load_gym()
    from reasoning_gym.factory import DATASETS

    known = sorted(DATASETS.keys() - {"composite"})  # which is made of others, as a mixture is
    tasks = known if names == ALL else [name.strip() for name in names.split(",")]
    for task in tasks:
        if task not in known:
            raise ConfigError(
                f"{key}: reasoning_gym has no task {task!r}{nearest(task, known)}; known: {', '.join(known)}"
            )
    if len(tasks) > 1 and kwargs:
        raise ConfigError(
            f"{key.removesuffix('source')}kwargs: each of several tasks has options of its own; make them the parts of a "
            "dataset.mixture"
        )
    return tasks


class GymMaker:
    """The rows of a task. Its options are those of the task's own configuration, and `level`, of its own curriculum."""

    num_rows: int | None = None

    def __init__(self, task: str, kwargs: dict[str, Any], key: str) -> None:
        self.name = f"reasoning_gym:{task}"
        self._task, self._key = task, key
        self._kwargs = {name: value for name, value in kwargs.items() if name != LEVEL}
        self._level: int | None = kwargs.get(LEVEL)
        self._require_options()
        if self._level is not None:
            self._require_level(self._level, f"{key}.{LEVEL}")
        self._data_set = lru_cache(CACHED)(self._made)

    def key(self, row: Row, level: int | None) -> str:
        prompt: str = row["prompt"]
        return prompt

    def require_level(self, level: int, key: str) -> None:
        if self._level is not None:
            raise ConfigError(f"{self._key}.{LEVEL} is what the curriculum sets; leave it out")
        self._require_level(level, key)

    def train_rows(self, seed: int, position: int, level: int | None) -> Iterator[Row]:
        chunk, place = divmod(position, CHUNK)
        return self._fit(self._row(f"{seed}:{chunk}:{attempt}", place, level) for attempt in count())

    def held_out_rows(self, level: int | None) -> Iterator[Row]:
        return self._fit(self._row(f"held out:{chunk}", place, level) for chunk in count() for place in range(CHUNK))

    def _fit(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Those whose own answer the reward takes. Of intermediate_integration some have none but the question itself."""
        return (row for row in rows if row["answer"] is None or harmless(self._task, row["answer"]))

    def _row(self, seed: str, place: int, level: int | None) -> Row:
        with _own_randomness():
            entry = self._data_set(seed, self._level if level is None else level)[place]
        try:
            metadata = written(entry["metadata"])
        except (RecursionError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._key}: {self.name} made metadata that no row can carry: {error}") from error
        return {"prompt": entry["question"], "answer": entry["answer"], "task": self._task, "metadata": metadata}

    def _made(self, seed: str, level: int | None) -> Any:
        """A data set of CHUNK rows."""
        from reasoning_gym.factory import DATASETS, create_curriculum

        data_set, configuration = DATASETS[self._task]
        number = int.from_bytes(sha256(f"{self._task}:{seed}".encode()).digest()[:4], "big") >> 1
        options = {**self._kwargs, "seed": number, "size": CHUNK}
        try:
            if level is None:
                config = configuration(**options)
            else:
                curriculum = create_curriculum(self._task)
                curriculum.set_global_level(level)
                config = curriculum.generate_configuration(options)
            if hasattr(config, "validate"):
                config.validate()
            return data_set(config=config)
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._key}: {self.name} cannot be made with {self._kwargs}: {error}") from error

    def _require_options(self) -> None:
        from reasoning_gym.factory import DATASETS

        known = [name for name in DATASETS[self._task][1].__dataclass_fields__ if name not in _OURS]
        for name in self._kwargs:
            if name not in known:
                hint = nearest(name, [*known, LEVEL])
                raise ConfigError(f"{self._key}: {self.name} has no option {name!r}{hint}; it has {', '.join(known)}")

    def _require_level(self, level: Any, key: str) -> None:
        from reasoning_gym.factory import create_curriculum, has_curriculum

        if not has_curriculum(self._task):
            raise ConfigError(f"{key}: {self.name} has no levels")
        greatest = max(len(each.levels) for each in create_curriculum(self._task).attributes.values()) - 1
        if type(level) is not int or not 0 <= level <= greatest:
            raise ConfigError(f"{key}: {level!r:.100}; {self.name} has levels from 0 to {greatest}")


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave the random numbers of the process as they are (some tasks seed NumPy's), and its output."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # one prints dots
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
