"""The manifests, read as Kubernetes and KubeRay would: schemas, references that lead somewhere, no plain secrets."""

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from areal.launch.config import load_run_config

from .files import CONSTRAINTS, K8S, NODE, ROOT, pins

SCHEMAS = Path(__file__).parent / "schemas"
KINDS = {
    "Job": "io.k8s.api.batch.v1.Job",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Service": "io.k8s.api.core.v1.Service",
    "StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
}
"""What a kind is called in the schema of Kubernetes; RayJob has one of its own."""


def resources() -> Iterator[dict[str, Any]]:
    for file in sorted(K8S.glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def one(kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = [each for each in resources() if each["kind"] == kind and name in (None, each["metadata"].get("name"))]
    return found


def cluster() -> dict[str, Any]:
    return dict(one("RayJob")["spec"]["rayClusterSpec"])


def groups() -> list[dict[str, Any]]:
    return [cluster()["headGroupSpec"], *cluster()["workerGroupSpecs"]]


def pods() -> list[dict[str, Any]]:
    """The pod templates."""
    return [*(group["template"] for group in groups()), one("StatefulSet")["spec"]["template"]]


def faults(resource: dict[str, Any]) -> list[str]:
    """What of a manifest is not as its schema has it."""
    named = ((file.name, json.loads(file.read_text())) for file in SCHEMAS.glob("*.json"))
    registry = Registry().with_resources([(name, DRAFT202012.create_resource(schema)) for name, schema in named])
    kind = resource["kind"]
    where = "kuberay.json" if kind == "RayJob" else f"kubernetes.json#/$defs/{KINDS[kind]}"
    validator = Draft202012Validator({"$ref": where}, registry=registry)
    return [f"{kind} {error.json_path}: {error.message}" for error in validator.iter_errors(resource)]


def test_everything_is_as_the_schemas_have_it() -> None:
    assert [fault for resource in resources() for fault in faults(resource)] == []


@pytest.mark.parametrize(
    ("kind", "path", "key", "value"),
    [
        ("RayJob", "spec", "backOffLimit", 1),
        ("RayJob", "spec.rayClusterSpec", "rayVersion", 2.6),
        ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0", "minReplicas", "1"),
        ("RayJob", "spec.rayClusterSpec.headGroupSpec.rayStartParams", "num-cpus", 0),
        ("RayJob", "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.livenessProbe", "tcpsocket", {}),
        ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.1.template.spec.securityContext", "runAsUsers", 1),
        ("StatefulSet", "spec.template.spec.containers.0.securityContext.capabilities", "drop", "ALL"),
        ("StatefulSet", "spec.volumeClaimTemplates.0.spec", "accessMode", ["ReadWriteOnce"]),
        ("Service", "spec.ports.0", "port", "redis"),
        ("NetworkPolicy", "spec.ingress.0.from.0", "podselector", {}),
        ("PersistentVolumeClaim", "spec.resources", "request", {}),
        ("Job", "spec.template.spec", "restartpolicy", "Never"),
    ],
)
def test_what_is_misspelt_or_of_another_kind_is_found(kind: str, path: str, key: str, value: object) -> None:
    resource = copy.deepcopy(one(kind))
    part: Any = resource
    for name in path.split("."):
        part = part[int(name) if name.isdigit() else name]
    part[key] = value
    assert any(path.rpartition(".")[2] in fault or key in fault for fault in faults(resource))


def test_kinds_and_versions() -> None:
    kinds = {(each["apiVersion"], each["kind"]) for each in resources()}
    assert kinds == {
        ("ray.io/v1", "RayJob"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("v1", "Service"),
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    }
    assert cluster()["rayVersion"] == pins(CONSTRAINTS)["ray"]  # of the image


def test_ray_start_is_told_in_strings() -> None:
    for group in groups():
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    learner, rollout = cluster()["workerGroupSpecs"]
    assert json.loads(json.loads(learner["rayStartParams"]["resources"])) == {"learner": 1}
    assert json.loads(json.loads(rollout["rayStartParams"]["resources"])) == {"rollout": 1}
    assert cluster()["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert rollout["minReplicas"] <= rollout["replicas"] <= rollout["maxReplicas"]


def test_the_entrypoint_is_a_run_that_could_start(tmp_path: Path) -> None:
    areal, run, config, *overrides = shlex.split(one("RayJob")["spec"]["entrypoint"])
    loaded = load_run_config(ROOT / Path(config).relative_to("/areal"), overrides)
    assert (areal, run, loaded.cluster.address) == ("areal", "run", "auto")
    placed = loaded.cluster.resources
    assert (placed.learner.custom, placed.rollout.custom) == ({"learner": 1.0}, {"rollout": 1.0})
    assert loaded.broker.url == f"redis://{one('Service')['metadata']['name']}:6379/0"
    assert loaded.rollout.workers == cluster()["workerGroupSpecs"][1]["replicas"]
    assert str(loaded.directory) in {
        mount["mountPath"] for mount in groups()[0]["template"]["spec"]["containers"][0]["volumeMounts"]
    }


def test_secrets_are_by_reference() -> None:
    for pod in pods():
        for variable in pod["spec"]["containers"][0]["env"]:
            secret = any(word in variable["name"] for word in ("PASSWORD", "TOKEN"))
            assert ("valueFrom" in variable) == secret, variable["name"]
            if secret:
                assert variable["valueFrom"]["secretKeyRef"] == {"name": "areal-redis", "key": "password"}
    assert cluster()["authOptions"] == {"mode": "token"}
    assert "create secret generic areal-redis --from-literal=password=" in (K8S / "README.md").read_text()


def test_pods_run_without_root_and_confined() -> None:
    for pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert not container["image"].endswith("latest")


def test_what_is_mounted_is_there() -> None:
    claims = {each["metadata"]["name"] for each in resources() if each["kind"] == "PersistentVolumeClaim"}
    templates = {each["metadata"]["name"] for each in one("StatefulSet")["spec"]["volumeClaimTemplates"]}
    for pod, made in zip(pods(), [set()] * 3 + [templates], strict=True):
        volumes = pod["spec"]["volumes"]
        named = {volume["name"] for volume in volumes} | made
        assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} == named
        claimed = {
            volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume
        }
        assert claimed <= claims


def test_probes_name_ports_of_their_container() -> None:
    for pod in pods():
        (container,) = pod["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        ways = [way for probe in ("readinessProbe", "livenessProbe") for way in container[probe].values()]
        assert {way["port"] for way in ways if isinstance(way, dict) and "port" in way} <= ports


def test_a_worker_is_well_while_the_head_hears_of_it() -> None:
    """As with `areal-node healthy worker`, by an answer that needs no token: an open port says little."""
    (port,) = re.findall(r"^health_port=.*:-(\d+)}$", NODE.read_text(), flags=re.MULTILINE)
    for group in cluster()["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["ports"] == [{"name": "agent", "containerPort": int(port)}]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"port": "agent", "path": "/api/local_raylet_healthz"}
    assert "/api/local_raylet_healthz" in NODE.read_text()


def test_what_ends_is_given_the_time_for_a_checkpoint() -> None:
    for group in groups():
        spec = group["template"]["spec"]
        environment = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
        assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "120"
        assert spec["terminationGracePeriodSeconds"] > 120


def test_a_run_that_was_stopped_is_not_begun_again() -> None:
    """Ray knows one good exit code, and `areal stop` has another."""
    assert one("RayJob")["spec"]["backoffLimit"] == 0


def test_the_volume_is_given_to_the_user_of_the_pods() -> None:
    job = one("Job")["spec"]["template"]["spec"]
    (container,) = job["containers"]
    user = groups()[0]["template"]["spec"]["securityContext"]
    mounts = groups()[0]["template"]["spec"]["containers"][0]["volumeMounts"]
    folders = [f"/volume/{mount['subPath']}" for mount in mounts if "subPath" in mount]
    made = f"mkdir -p {' '.join(folders)} && chown {user['runAsUser']}:{user['runAsGroup']} {' '.join(folders)}"
    assert container["args"] == [made]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE"]}
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in job["volumes"]]
    assert claims == [one("PersistentVolumeClaim")["metadata"]["name"]]


def test_the_commands_name_what_is_here_and_wait_for_the_job() -> None:
    commands = (K8S / "README.md").read_text().split("```")[1]
    assert set(re.findall(r"deploy/k8s/(\S+\.yaml)", commands)) == {file.name for file in K8S.glob("*.yaml")}
    assert "generateName" in one("RayJob")["metadata"]
    assert commands.index("job=$(kubectl create") < commands.index("kubectl wait") < commands.index("kubectl logs")
    assert '"rayjob/$job"' in commands and '"job/$job"' in commands


def test_redis_is_found_and_reached_by_pods_of_areal_alone() -> None:
    labels = one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert one("StatefulSet")["spec"]["serviceName"] == one("Service")["metadata"]["name"]
    assert one("Service")["spec"]["selector"] == one("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    policy = one("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    (rule,) = policy["ingress"]
    (allowed,) = [peer["podSelector"]["matchLabels"].items() for peer in rule["from"]]
    assert all(allowed <= group["template"]["metadata"]["labels"].items() for group in groups())


@pytest.mark.parametrize(
    "setting", ["appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "dir /data"]
)
def test_redis_keeps_what_it_holds(setting: str) -> None:
    container = one("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert setting in container["args"][0].split("\n")
