"""The files under test, and a compose file as Docker would see it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE, GPU, CODE = (ROOT / f"docker-compose{part}.yml" for part in ("", ".gpu", ".code"))
EXAMPLE = ROOT / ".env.example"
DOCKERFILE = ROOT / "Dockerfile"
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
NODE = ROOT / "deploy" / "docker" / "areal-node"
SLURM = ROOT / "deploy" / "slurm" / "areal.sbatch"
K8S = ROOT / "deploy" / "k8s"

VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\}")
"""A variable of a compose file with what follows its name; $$ stands for a dollar sign."""


def example() -> dict[str, str]:
    """The variables of .env.example and what it says of them, those commented out too."""
    lines = re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), flags=re.MULTILINE)
    return dict(lines)


def pins(path: Path) -> dict[str, str]:
    """The versions that a file of requirements says, by name."""
    lines = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)$", path.read_text(), flags=re.MULTILINE)
    return dict(lines)


def compose(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """A compose file with the variables replaced."""

    def value(found: re.Match[str]) -> str:
        return environment.get(found["name"]) or (found["rest"] if found["how"] == ":-" else "") or ""

    tree: dict[str, Any] = _replaced(yaml.safe_load(path.read_text()), value)
    return tree


def _replaced(node: Any, value: Any) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(each, value) for key, each in node.items()}
    if isinstance(node, list):
        return [_replaced(each, value) for each in node]
    return VARIABLE.sub(value, node).replace("$$", "$") if isinstance(node, str) else node
