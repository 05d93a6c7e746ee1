"""The compose files: their form, their variables, and what they show to whom."""

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from areal.broker.address import PASSWORD_VARIABLE, SSL_FILES, USERNAME_VARIABLE

from .files import CODE, COMPOSE, EXAMPLE, GPU, NODE, ROOT, VARIABLE, compose, example

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose.json").read_text())
SECRETS = {"AREAL_REDIS_PASSWORD": "the-password", "RAY_AUTH_TOKEN": "the-token", "HF_TOKEN": "the-hub"}
FILES = pytest.mark.parametrize("path", [COMPOSE, GPU, CODE], ids=lambda path: path.name)


@FILES
def test_is_as_the_compose_specification_has_it(path: Path) -> None:
    jsonschema.validate(compose(path, SECRETS), SCHEMA)


def test_a_misspelt_key_is_not() -> None:
    wrong = compose(COMPOSE, SECRETS)
    wrong["services"]["redis"]["enviroment"] = wrong["services"]["redis"].pop("environment")
    with pytest.raises(jsonschema.ValidationError, match="enviroment"):
        jsonschema.validate(wrong, SCHEMA)


def test_every_variable_is_in_the_example_and_the_other_way_round() -> None:
    used = {found["name"] for path in (COMPOSE, GPU, CODE) for found in VARIABLE.finditer(path.read_text())}
    assert used == example().keys()


def test_the_example_shows_the_defaults() -> None:
    for found in VARIABLE.finditer(COMPOSE.read_text()):
        if found["how"] == ":-":
            assert example()[found["name"]] == found["rest"], found["name"]


@FILES
def test_secrets_come_from_the_environment_alone(path: Path) -> None:
    """None has a default, and what they are stands nowhere but in the environment of a container."""
    for found in VARIABLE.finditer(path.read_text()):
        assert found["name"] not in SECRETS or found["how"] == ":?" or found["rest"] == "", found[0]
    for where, text in leaves(compose(path, SECRETS)):
        assert "environment" in where or not any(secret in text for secret in SECRETS.values()), where


def test_a_password_and_a_token_must_be_given() -> None:
    required = {found["name"] for found in VARIABLE.finditer(COMPOSE.read_text()) if found["how"] == ":?"}
    assert required == {"AREAL_REDIS_PASSWORD", "RAY_AUTH_TOKEN"}
    nodes = [name for name in compose(COMPOSE, SECRETS)["services"] if name != "redis"]
    for name in nodes:
        environment = compose(COMPOSE, SECRETS)["services"][name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == "the-token"


def test_the_file_of_secrets_is_made_for_its_owner_alone() -> None:
    said = {file: file.read_text() for file in (COMPOSE, EXAMPLE, ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    assert all(
        "install -m 600 .env.example .env" in said[file] for file in (COMPOSE, EXAMPLE, ROOT / "docs" / "containers.md")
    )
    assert not [file for file, text in said.items() if "cp .env.example" in text]


def test_a_redis_of_ones_own_can_be_spoken_to_and_reached() -> None:
    """By its user, its password and its files of TLS, on a network that leads out."""
    variables = {USERNAME_VARIABLE, PASSWORD_VARIABLE, *SSL_FILES.values()}
    given = SECRETS | {name: f"the {name}" for name in variables} | {"AREAL_NETWORK_INTERNAL": "false"}
    cluster = compose(COMPOSE, given)
    for name in cluster["services"].keys() - {"redis"}:
        environment = cluster["services"][name]["environment"]
        assert {variable: environment[variable] for variable in variables} == {each: given[each] for each in variables}
    assert cluster["networks"]["cluster"]["internal"] == "false"


@FILES
def test_ports_are_published_to_the_loopback_at_most(path: Path) -> None:
    for name, service in compose(path, SECRETS)["services"].items():
        assert service.get("network_mode") != "host", name
        for port in service.get("ports", []):
            host = port.get("host_ip", "") if isinstance(port, dict) else str(port).rpartition(":")[0]
            assert host.startswith("127.0.0.1"), f"{name} publishes {port}"


def test_the_network_leads_nowhere_and_nodes_keep_their_addresses_in_it() -> None:
    cluster = compose(COMPOSE, SECRETS)
    network = cluster["networks"]["cluster"]
    (pool,) = network["ipam"]["config"]
    subnet, given = ipaddress.ip_network(pool["subnet"]), ipaddress.ip_network(pool["ip_range"])
    fixed = [service["networks"]["cluster"].get("ipv4_address") for service in cluster["services"].values()]
    addresses = [ipaddress.ip_address(address) for address in fixed if address]
    assert network["internal"] == "true"
    assert len(set(addresses)) == len(addresses) == len(cluster["services"]) - 1
    assert all(address in subnet and address not in given for address in addresses)


def test_every_part_is_looked_after_and_confined() -> None:
    for name, service in compose(COMPOSE, SECRETS)["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # on-failure would leave all of them down when the daemon, or the machine, starts again
        assert service["restart"] == ("no" if name == "areal" else "unless-stopped"), name
        assert service["healthcheck"] == {"disable": True} if name == "areal" else service["healthcheck"]["test"], name


def test_each_node_is_asked_for_its_own_health() -> None:
    services = compose(COMPOSE, SECRETS)["services"]
    asked = {name: service["healthcheck"].get("test") for name, service in services.items()}
    assert asked["ray-head"] == ["CMD", "areal-node", "healthy", "head"]
    assert asked["learner"] == asked["rollout-0"] == asked["rollout-1"] == ["CMD", "areal-node", "healthy", "worker"]


def test_the_walls_of_the_reward_code_can_be_put_up_where_it_runs() -> None:
    """By namespaces of users: with the system calls that make them, and no capability."""
    services = compose(CODE, SECRETS)["services"]
    assert services.keys() == {"rollout-0", "rollout-1", "areal"}
    for service in services.values():
        assert service.keys() == {"security_opt"}
        profile, apparmor = service["security_opt"]
        assert apparmor == "apparmor=unconfined"
        rules = json.loads((ROOT / profile.removeprefix("seccomp=")).read_text())["syscalls"]
        allowed = {
            name
            for rule in rules
            for name in rule["names"]
            if (rule["action"], rule["includes"], rule["args"]) == ("SCMP_ACT_ALLOW", {}, [])
        }
        assert {"unshare", "mount", "umount2", "pivot_root", "mount_setattr"} <= allowed
        assert not allowed & {"bpf", "perf_event_open", "kexec_load", "init_module", "userfaultfd"}


def test_redis_keeps_what_it_holds() -> None:
    redis = compose(COMPOSE, SECRETS)["services"]["redis"]
    settings = redis["command"][0].split("\n")
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "dir /data"} <= set(settings)
    assert redis["volumes"] == ["redis:/data"]
    assert redis["image"].rpartition(":")[2][0].isdigit()  # a version, not `latest`


def test_nodes_are_what_the_image_knows() -> None:
    commands = {
        name: [*service["entrypoint"], *service["command"]]
        for name, service in compose(COMPOSE, SECRETS)["services"].items()
    }
    assert commands.pop("redis")[0] == "sh"
    assert commands == {
        "ray-head": ["areal-node", "head"],
        "learner": ["areal-node", "worker", "learner"],
        "rollout-0": ["areal-node", "worker", "rollout"],
        "rollout-1": ["areal-node", "worker", "rollout"],
        "areal": ["areal-node", "drive", "--help"],
    }
    assert all(f"    {command[1]})" in NODE.read_text() for command in commands.values())


def test_gpus_go_to_the_nodes_that_have_roles() -> None:
    base, gpu = compose(COMPOSE, SECRETS), compose(GPU, SECRETS)
    devices = {
        name: device["device_ids"]
        for name, service in gpu["services"].items()
        for device in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    }
    assert devices == {"learner": ["0"], "rollout-0": ["1"], "rollout-1": ["2"]}
    assert gpu["services"].keys() == base["services"].keys() - {"redis"}
    assert {service["image"] for service in gpu["services"].values()} == {"areal:cuda"}


def leaves(node: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in a tree, and the keys that lead to it."""
    if isinstance(node, dict):
        for key, each in node.items():
            yield from leaves(each, (*where, str(key)))
    elif isinstance(node, list):
        for each in node:
            yield from leaves(each, where)
    else:
        yield where, str(node)
