"""The parts of a configuration: which models may stand at a key, several of them told apart by their `name`."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def keys_and_models(model: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of a location, without the tags by which pydantic tells the members of a union, and the models there."""
    keys: list[str] = []
    kinds: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [kind for kind in kinds if _name_of(kind) == part]
        if len(kinds) > 1 and tagged:
            kinds = tagged
            continue
        keys.append(str(part))
        if isinstance(part, str):
            fields = [kind.model_fields[part] for kind in kinds if part in kind.model_fields]
            kinds = [kind for field in fields for kind in _models_in(field)]
    return keys, kinds


def without_renamed(
    written: Mapping[str, Any], given: Mapping[str, Any], model: type[BaseModel], *, resolved: bool = False
) -> dict[str, Any]:
    """What is written of a model, less what is of no use to a part that is given another `name`.

    That is what other parts of that place know and the new one does not. Of a resolved configuration, in which defaults
    cannot be told from what somebody has set, it is all that is written of the part.
    """
    kept = dict(written)
    for key, field in model.model_fields.items():
        part, change = written.get(key), given.get(key)
        if not isinstance(part, dict) or not isinstance(change, dict):
            continue
        kinds = {_name_of(kind): kind for kind in _models_in(field)}
        was = part.get("name", getattr(field.get_default(call_default_factory=True), "name", None))
        becomes = change.get("name", was)
        if becomes not in kinds:
            continue
        if becomes != was:
            others = {each for kind in kinds.values() for each in kind.model_fields}
            lacks = set(part) if resolved else others.difference(kinds[becomes].model_fields)
            part = {each: value for each, value in part.items() if each not in lacks}
        kept[key] = without_renamed(part, change, kinds[becomes], resolved=resolved)
    return kept


def _name_of(kind: type[BaseModel]) -> Any:
    """By which it is told from the others that may stand in its place; None where there are no others."""
    return kind.model_fields["name"].default if "name" in kind.model_fields else None


def _models_in(field: FieldInfo) -> list[type[BaseModel]]:
    """The models that the value of a field may be of."""
    found = [field.annotation, *_nested(field.annotation)]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _nested(annotation: Any) -> list[Any]:
    inner = list(get_args(annotation))
    return inner + [deeper for kind in inner for deeper in _nested(kind)]
