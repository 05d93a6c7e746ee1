from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from areal.broker.client import Client, connect
from areal.broker.errors import ArealError, ConfigError
from areal.broker.server import EmbeddedRedis
from areal.launch.cluster import transport
from areal.launch.cluster.nodes import SurveyedNode
from areal.launch.cluster.transport import Choice, bytes_in_redis, choose_transport, require_room, told, weights_bytes
from areal.launch.config import RunConfig, load_run_config
from areal.launch.driver.run import Driver
from areal.launch.models.size import ModelSize

from ..test_config import CONFIGS

MODEL = CONFIGS / "models" / "sort"
SEEING, BLIND = SurveyedNode("10.0.0.1", name="head", sees=True), SurveyedNode("10.0.0.2", name="other")
CLUSTER = ("cluster.address=auto", "broker.url=redis://10.0.0.1")


def config_of(*overrides: str) -> RunConfig:
    return load_run_config(CONFIGS / "quickstart.yaml", overrides)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[SurveyedNode]:
    """Those that a cluster has; it may be asked only where a test names some."""
    found: list[SurveyedNode] = []

    def survey(*arguments: Any) -> list[SurveyedNode]:
        if not found:
            raise ArealError("nobody was to be asked")
        return found

    monkeypatch.setattr(transport, "survey", survey)
    return found


def test_what_is_said_is_done(nodes: list[SurveyedNode]) -> None:
    for way in ("directory", "redis", "direct"):
        assert choose_transport(config_of(f"broker.weights={way}", *CLUSTER), "redis://x").weights == way


def test_one_machine_has_one_directory(nodes: list[SurveyedNode]) -> None:
    choice = choose_transport(config_of(), "redis://x")
    assert told(choice) == "weights travel through the run's directory: the run is on one machine"


def test_how_they_travel_is_told() -> None:
    choice = choose_transport(config_of("broker.weights=direct"), "redis://x")
    assert told(choice) == "weights travel directly from the learner's memory into the engines': as broker.weights says"


def test_a_directory_that_all_nodes_see_is_used(nodes: list[SurveyedNode]) -> None:
    nodes += [SEEING, SEEING]
    choice = choose_transport(config_of(*CLUSTER), "redis://x")
    assert choice == Choice("directory", "all 2 nodes see it")


def test_redis_is_used_where_one_node_does_not_see_it(nodes: list[SurveyedNode]) -> None:
    nodes += [SEEING, BLIND]
    choice = choose_transport(config_of(*CLUSTER), "redis://x")
    assert told(choice) == "weights travel through Redis: other do not see the run's directory"


def test_a_cluster_that_cannot_be_asked_is_an_error(nodes: list[SurveyedNode]) -> None:
    with pytest.raises(ArealError, match="nobody"):
        choose_transport(config_of(*CLUSTER), "redis://x")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    server = EmbeddedRedis(tmp_path / "redis")
    with connect(server.start()) as made:
        yield made
    server.stop()


def test_redis_must_have_room_for_the_weights(client: Client) -> None:
    config, limit = config_of("broker.weights=redis"), 4 * 4 * 110_912
    require_room(client, config, str(MODEL))  # as there is no limit
    client.config_set("maxmemory", str(limit))
    require_room(client, config, str(MODEL))
    client.config_set("maxmemory", str(limit - 1))
    with pytest.raises(ConfigError, match=r"4 versions .* take 1.7 MiB, more than its maxmemory of 1.7 MiB"):
        require_room(client, config, str(MODEL))
    require_room(client, config, "nobody/knows")


def test_what_travels_is_what_is_trained() -> None:
    size = ModelSize({"q_proj.weight": (100, 50)}, {})
    assert weights_bytes(config_of(), size) == 4 * 5000
    assert weights_bytes(config_of("model.dtype=bfloat16"), size) == 2 * 5000
    assert weights_bytes(config_of("model.dtype=bfloat16", "model.lora={rank: 2}"), size) == 4 * 2 * 150


def test_what_lies_in_redis_is_groups_and_perhaps_weights() -> None:
    size = ModelSize({"q_proj.weight": (100, 50)}, {})
    groups = (5 + 2 * 20) * 16 * 8 * 64 * 8
    assert bytes_in_redis(config_of(), size) == bytes_in_redis(config_of("broker.weights=redis"), None) == groups
    assert bytes_in_redis(config_of("broker.weights=redis"), size) == groups + 4 * 4 * 5000


class Aside:
    """A run directory and a display that a driver needs, of which only what is told is looked at."""

    earlier: ClassVar[list[Any]] = []
    invocations: ClassVar[list[Any]] = []
    path, logs, key = Path("/nowhere"), Path("/nowhere/logs"), "key"

    def __init__(self) -> None:
        self.told: list[str] = []

    def write(self, record: dict[str, Any]) -> None: ...

    def show(self, record: dict[str, Any]) -> None:
        self.told.append(record["text"])


@pytest.mark.parametrize(("found", "way"), [([SEEING], "directory"), ([SEEING, BLIND], "redis")])
def test_all_roles_get_what_was_chosen(
    found: list[SurveyedNode], way: str, nodes: list[SurveyedNode], client: Client, tmp_path: Path
) -> None:
    nodes += found
    aside: Any = Aside()
    driver = Driver(config_of(*CLUSTER), str(MODEL), aside, aside)
    driver._choose_transport(client, "redis://x")
    specs = [spec for company in driver._companies("redis://x") for spec in company]
    assert {spec.config["broker"]["weights"] for spec in specs} == {way} and len(specs) == 2
    assert len(aside.told) == 1 and aside.told[0].startswith("weights travel through")
    client.config_set("maxmemory", str(2**20))
    if way == "redis":
        with pytest.raises(ConfigError, match="more than its maxmemory"):
            driver._choose_transport(client, "redis://x")
