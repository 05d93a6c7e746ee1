"""The manifests, read as KubeRay 1.5 and Kubernetes would: known fields, references that lead somewhere, no plain secrets."""

import json
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from areal.launch.config import load_run_config

from .files import K8S, ROOT

FIELDS = {
    "RayJob": "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec runtimeEnvYAML "
    "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished",
    "RayCluster": "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs",
    "head": "enableIngress headService labels rayStartParams resources serviceType template",
    "worker": "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas resources "
    "scaleStrategy suspend template",
    "pod": "automountServiceAccountToken containers securityContext terminationGracePeriodSeconds volumes",
    "container": "args command env image livenessProbe name ports readinessProbe resources securityContext volumeMounts",
}


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


def require_known(kind: str, part: dict[str, Any]) -> None:
    assert part.keys() <= set(FIELDS[kind].split()), f"{kind}: {part.keys() - set(FIELDS[kind].split())}"


def test_every_field_is_known() -> None:
    require_known("RayJob", one("RayJob")["spec"])
    require_known("RayCluster", cluster())
    require_known("head", cluster()["headGroupSpec"])
    for group in cluster()["workerGroupSpecs"]:
        require_known("worker", group)
    for pod in pods():
        require_known("pod", pod["spec"])
        for container in pod["spec"]["containers"]:
            require_known("container", container)


def test_kinds_and_versions() -> None:
    kinds = {(each["apiVersion"], each["kind"]) for each in resources()}
    assert kinds == {
        ("ray.io/v1", "RayJob"),
        ("apps/v1", "StatefulSet"),
        ("v1", "Service"),
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    }
    assert cluster()["rayVersion"] == version("ray")  # of the image, as of this environment


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
        probes = [container["readinessProbe"], container["livenessProbe"]]
        assert {probe["tcpSocket"]["port"] for probe in probes if "tcpSocket" in probe} <= ports
    for group in cluster()["workerGroupSpecs"]:
        (port,) = group["template"]["spec"]["containers"][0]["ports"]
        assert group["rayStartParams"]["node-manager-port"] == str(port["containerPort"])


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
