"""Data sets of the Hugging Face hub, or of a folder that `datasets` can load or has saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...broker.errors import ConfigError
from .rows import Row, nearest
from .shape import Shape
from .table import SAVED


class Hub:
    """The rows of a split, mapped from disk. Its columns and its first row are checked at the start, others as they are read."""

    def __init__(self, key: str, name: str, shape: Shape, *, subset: str | None, split: str) -> None:
        self._name = f"hf:{name}" if subset is None else f"hf:{name} ({subset})"
        self._split = split
        self._rows = _loaded(key, name, subset, split)
        if len(self._rows) == 0:
            raise ConfigError(f"{key}: {self._name} has no rows in its split {split}")
        self._all = self._rows
        self._rows = self._rows.select_columns(shape.needed(self._rows.column_names))
        shape(self[0], f"{key}: {self.where(0)}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:
        row: Row = self._rows[number]
        return row

    def where(self, number: int) -> str:
        return f"{self._name}, row {number} of {self._split}"

    def column(self, name: str) -> Iterator[Any]:
        if name not in self._all.column_names:
            return iter([None] * len(self))
        return (row[name] for row in self._all.select_columns([name]))


def _loaded(key: str, name: str, subset: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"{key}: hf:{name} needs the package datasets: pip install 'areal-rl[data]'") from error
    folder = Path(name).expanduser()
    try:
        if any((folder / file).is_file() for file in SAVED):
            return _of_split(key, name, datasets.load_from_disk(str(folder)), split)
        return datasets.load_dataset(str(folder) if folder.is_dir() else name, subset, split=split)
    except ConfigError:
        raise
    except Exception as error:  # of the hub, of the network, of the builder: each library has a tree of its own
        raise ConfigError(_said(key, name, subset, split, error)) from error


def _of_split(key: str, name: str, saved: Any, split: str) -> Any:
    """Of several splits the one of that name; a data set that was saved alone is what it is."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        known = [str(each) for each in saved]
        raise ConfigError(
            f"{key}: hf:{name} has no split {split!r}{nearest(split, known)}; it has {', '.join(known)} (dataset.split and "
            "dataset.eval_split)"
        )
    return saved[split]


def _said(key: str, name: str, subset: str | None, split: str, error: Exception) -> str:
    asked = f"hf:{name}, subset {subset or 'none'}, split {split}"
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    if isinstance(error, ConnectionError) or (isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)):
        return (
            f"{key}: {asked} cannot be fetched: {_short(error)}. Without a network, name a folder (hf:./folder), or a data "
            "set that is in the cache of `datasets` already"
        )
    return f"{key}: {asked} cannot be loaded (dataset.subset, dataset.split): {type(error).__name__}: {_short(error)}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
