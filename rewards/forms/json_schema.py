"""Whether a text holds JSON that a schema allows, by the package jsonschema."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ...broker.errors import ConfigError, RewardError
from ..reward import begins_with
from .json_text import NotJson, canonical, parse_last

Schema = dict[str, Any] | str | bool


def _begin(schema: Schema | None) -> None:
    if schema is not None:
        try:
            _validator(_canonical(schema))
        except RewardError as error:
            raise ConfigError(str(error)) from error


@begins_with(_begin, columns=("schema",))
def json_schema(completion: str, schema: Schema | None = None, *, parses: float = 0.0) -> dict[str, float]:
    """`parses` for JSON, and 1 − `parses` more if it is `valid` under `schema`.

    The JSON is the whole completion, or else its last ```json block. `schema` is JSON Schema of any draft (2020-12 unless it
    says so), as a mapping or as JSON text, from kwargs or from a column of the row. A reference to what is not within the
    schema is never fetched, but an error. JSON of more than 100,000 characters or 64 levels is not read, nor are NaN and
    Infinity; `format` is not checked, and a `pattern` of the schema is matched by re, without a deadline of its own.
    """
    if schema is None:
        raise RewardError("json_schema wants a schema: set kwargs.schema, or give the rows a column schema")
    validator = _validator(_canonical(schema))
    try:
        value = parse_last(completion)
    except NotJson:
        return {"parses": 0.0, "valid": 0.0}
    return {"parses": parses, "valid": (1.0 - parses) * _is_valid(validator, value)}


def _is_valid(validator: Any, value: Any) -> bool:
    from referencing.exceptions import Unresolvable

    try:
        return bool(validator.is_valid(value))
    except Unresolvable as error:
        raise RewardError(f"the schema refers to {error.ref!r}, which is not within it; nothing is fetched") from error
    except RecursionError as error:
        raise RewardError("the schema refers to itself without end") from error


def _canonical(schema: Schema) -> str:
    """The schema as text, by which its validator is kept."""
    return schema if isinstance(schema, str) else json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:
    try:
        import jsonschema
        from referencing import Registry
    except ImportError as error:
        raise ConfigError("the reward json_schema needs jsonschema: pip install 'areal-rl[text]'") from error
    try:
        wanted = json.loads(schema)
        kind = jsonschema.validators.validator_for(wanted, default=jsonschema.Draft202012Validator)
        kind.check_schema(wanted)
    except (ValueError, jsonschema.SchemaError) as error:
        reason = str(error).partition("\n")[0]
        raise RewardError(f"{schema:.200} is no JSON schema (kwargs.schema, or the column schema): {reason}") from error
    extend: Any = jsonschema.validators.extend
    return extend(kind, {"uniqueItems": _unique_items})(wanted, registry=Registry())


def _unique_items(validator: Any, wanted: Any, array: Any, schema: Any) -> Iterator[Any]:
    """As jsonschema has it, but in linear time: it compares all pairs of what Python cannot sort."""
    from jsonschema import ValidationError

    if wanted and validator.is_type(array, "array") and len({canonical(item) for item in array}) < len(array):
        yield ValidationError("an item occurs twice")
