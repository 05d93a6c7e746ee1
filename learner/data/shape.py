"""From a row of a source to the row of a prompt: its columns, its template, its system message, and JSON values alone."""

import datetime
import decimal
import json
import re
from typing import Any

import numpy as np

from ...broker.errors import ConfigError
from .config import RowsConfig
from .rows import Row, nearest

_PLACE = re.compile(r"\{\{([^{}]*)\}\}")


class Shape:
    """What is made of every row of a source, as configured.

    In a template `{{name}}` stands for the value of a column, by its name in the source or in the row: text as it is, null
    as nothing, all else as JSON. Values are never looked into for further places.
    """

    def __init__(self, config: RowsConfig, key: str = "dataset") -> None:
        """`key` is where the configuration stands, for messages."""
        self._config, self._key = config, key
        self._places = [] if config.prompt is None else [name.strip() for name in _PLACE.findall(config.prompt)]

    def needed(self, known: list[str]) -> list[str]:
        """Of the columns of a source, those that are read; of the curriculum's too."""
        config = self._config
        if not config.columns:
            return known
        wanted = {*config.columns.values(), *self._places}
        if config.curriculum is not None:
            wanted.add(config.curriculum.column)
        return [name for name in known if name in wanted]

    def __call__(self, raw: Row, where: str) -> Row:
        """The row of a prompt. Raises ConfigError, which says `where` the row is, for what cannot be one."""
        config = self._config
        row = {new: self._column(raw, old, f"columns.{new}", where) for new, old in config.columns.items()} or dict(raw)
        if config.prompt is not None:
            row.pop("messages", None)
            row["prompt"] = self._filled(config.prompt, {**raw, **row}, where)
        _check(row, where)
        if config.system is not None:
            row = _with_system(row, config.system)
        return {name: plain(value, f"{where}: column {name}") for name, value in row.items()}

    def _column(self, raw: Row, name: str, key: str, where: str) -> Any:
        if name not in raw:
            raise ConfigError(
                f"{where}: there is no column {name!r} ({self._key}.{key}){nearest(name, raw)}; its columns are "
                f"{', '.join(raw) or 'none'}"
            )
        return raw[name]

    def _filled(self, template: str, values: Row, where: str) -> str:
        def value_of(place: re.Match[str]) -> str:
            value = self._column(values, place[1].strip(), "prompt", where)
            return "" if value is None else value if isinstance(value, str) else json.dumps(plain(value, where))

        return _PLACE.sub(value_of, template)


def plain(value: Any, where: str) -> Any:
    """The value as JSON has it: numbers of NumPy as Python's, dates and decimals as text. Raises ConfigError for others."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), where)
    if isinstance(value, dict):
        return {str(key): plain(each, where) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, where) for each in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | str):
        return str(value)
    raise ConfigError(f"{where}: a {type(value).__name__}, which no prompt can carry; leave it out by dataset.columns")


def _check(row: Row, where: str) -> None:
    if "messages" not in row and "prompt" not in row:
        raise ConfigError(
            f"{where}: a row needs `prompt` or `messages`; its columns are {', '.join(row) or 'none'} (dataset.columns "
            "gives them other names, dataset.prompt makes a prompt of them)"
        )
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise ConfigError(f"{where}: `prompt` must be text, not {type(row['prompt']).__name__}")
    if "messages" in row and not _are_messages(row["messages"]):
        raise ConfigError(f"{where}: `messages` must be a list of {{role: text, content: text}}")


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in value)
    )


def _with_system(row: Row, system: str) -> Row:
    """The row with `messages` in place of its `prompt`."""
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    rest = {name: value for name, value in row.items() if name not in ("messages", "prompt")}
    return {"messages": messages, **rest}
