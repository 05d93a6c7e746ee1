import json
import time

import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.forms.json_schema import json_schema
from areal.rewards.reward import prepare

SCHEMA = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "minimum": 0}}}


@pytest.mark.parametrize(
    ("completion", "parses", "valid"),
    [
        ('{"age": 3}', 1, 1),
        ('Sure:\n```json\n{"age": 3}\n```', 1, 1),
        ('{"age": -1}', 1, 0),
        ('{"age": "3"}', 1, 0),
        ("[]", 1, 0),
        ('{"age": 3', 0, 0),
        ("age is 3", 0, 0),
        ("[" * 100_000, 0, 0),
        ('{"age": NaN}', 0, 0),
    ],
)
def test_json_schema(completion: str, parses: int, valid: int) -> None:
    assert json_schema(completion, SCHEMA) == {"parses": 0.0, "valid": valid}
    assert json_schema(completion, json.dumps(SCHEMA), parses=0.25) == {"parses": 0.25 * parses, "valid": 0.75 * valid}


def test_a_schema_of_the_row_or_of_the_configuration() -> None:
    of_row = prepare("json_schema", json_schema, {})
    of_row.begin()
    assert sum(of_row("p", '{"age": 3}', {"schema": SCHEMA}).values()) == 1.0
    with pytest.raises(RewardError, match="wants a schema"):
        of_row("p", "{}", {})
    configured = prepare("json_schema", json_schema, {"schema": False})
    configured.begin()
    assert sum(configured("p", "{}", {}).values()) == 0.0
    with pytest.raises(ConfigError, match=r"is no JSON schema .*'objekt' is not valid"):
        prepare("json_schema", json_schema, {"schema": {"type": "objekt"}}).begin()


@pytest.mark.parametrize(
    ("array", "unique"),
    [
        ("[1, true, 0, false, null, 1.5]", True),
        ("[1, 1.0]", False),
        ('[{"a": 1, "b": [true]}, {"b": [true], "a": 1.0}]', False),
        ('[{"a": [1]}, {"a": [true]}, "1"]', True),
        ("[" + ",".join(map(str, range(15_000))) + ", null]", True),
        ("[" + ",".join(map(str, range(15_000))) + ", null, 7]", False),
        ("[" + ",".join(str(i * (2**61 - 1)) for i in range(4_000)) + ", null]", True),
    ],
    ids=range(7),
)
def test_unique_items_in_no_time(array: str, unique: bool) -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "items": {}, "uniqueItems": True}
    began = time.process_time()
    for wanted in (schema, {"allOf": [{"$ref": "#/$defs/set"}], "$defs": {"set": {"uniqueItems": True}}}):
        assert json_schema(array, wanted)["valid"] == unique
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "#/$defs/none"])
def test_no_schema_is_fetched(place: str) -> None:
    with pytest.raises(RewardError, match="not within it; nothing is fetched"):
        json_schema("{}", {"$ref": place})


def test_a_schema_without_end_is_an_error() -> None:
    with pytest.raises(RewardError, match="without end"):
        json_schema("{}", {"$ref": "#"})
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert sum(json_schema("[[[]], []]", tree).values()) == 1.0
    assert sum(json_schema("[[[1]], []]", tree).values()) == 0.0
