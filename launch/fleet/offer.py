"""What a run tells those who would join it: its configuration without secrets, which they take for what anybody may have written.

driver ──write_offer──▶ Redis ──read_offer──▶ areal join, with what is different on its own host
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...broker.errors import ConfigError
from ...broker.fleet import MAX_BYTES
from ...rewards.loading import BUNDLED, is_entry_point
from ..config import RunConfig, validated
from ..written import overridden

OWN = (
    "directory",
    "model.path",
    "rollout.threads",
    "rollout.max_concurrent",
    "rollout.weights_timeout_s",
    "rollout.engine",
    "rollout.workflow",
    "denoising.max_batch",
    "denoising.consistency_lora",
    "rewards",
    "broker.timeout_s",
    "cluster.drain_s",
    "cluster.max_restarts",
)
"""What may be different for a worker from outside. All else is the same for all workers of a run."""


def write_offer(config: RunConfig) -> bytes:
    """The configuration as workers from outside need it. Raises ConfigError where it is too long."""
    tree = config.model_dump(mode="json") | {"directory": str(config.path.parent)}
    tree["broker"]["url"] = None
    offer = json.dumps({"version": __version__, "config": tree}).encode()
    if len(offer) > MAX_BYTES:
        raise ConfigError(f"the configuration is {len(offer)} bytes long, and at most {MAX_BYTES} fit into Redis")
    return offer


def read_offer(offer: bytes, overrides: Sequence[str], *, run: str, trusted: bool) -> RunConfig:
    """The configuration that a run offers, with what is different here. Raises ConfigError.

    Code that it names is not taken for granted, as whoever may write to that Redis chooses it: what is neither bundled nor
    an entry point nor in a file below the working directory must be said here too, unless it is `trusted`.
    """
    _refuse_what_is_the_runs(overrides)
    source = Path(f"{run} on redis")
    tree = _tree(offer, source)
    validated(RunConfig, tree, source)
    config = validated(RunConfig, overridden(tree, overrides, RunConfig, source), source)
    for function in config.rewards.functions:
        function.name = _found_here(function.name, "rewards.functions")
    config.rollout.workflow = _found_here(config.rollout.workflow, "rollout.workflow")
    said = {override.partition("=")[0] for override in overrides}
    odd = [f"{key} ({what})" for key, what in _foreign_code(config) if not said & _parents(key)]
    if odd and not trusted:
        raise ConfigError(
            f"the configuration in Redis would have this run here: {', '.join(odd)}. If you trust all who may write there, "
            "give --trust; or say these keys yourself"
        )
    return config


def _tree(offer: bytes, source: Path) -> dict[str, Any]:
    try:
        said = json.loads(offer)
        version, tree = str(said["version"]), dict(said["config"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{source}: what is offered there is no configuration ({type(error).__name__})") from None
    if version != __version__:
        raise ConfigError(f"{source} is a run of areal {version:.40}, and this is {__version__}: install the same here")
    return tree


def _refuse_what_is_the_runs(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == own or key.startswith(f"{own}.") for own in OWN):
            raise ConfigError(
                f"{key} is the same for all workers of a run, and cannot be said here; what can: {', '.join(OWN)}"
            )


def _found_here(name: str, key: str) -> str:
    """A name of code as it is here: files are where they are at the run's host, or of the same name in the working directory."""
    file, colon, rest = name.partition(":")
    if not file.endswith(".py"):
        return name
    for place in (Path(file), Path.cwd() / Path(file).name):
        if place.is_file():
            return f"{place.resolve()}{colon}{rest}"
    raise ConfigError(
        f"{key} names {name}, and there is no such file here, nor {Path(file).name} in {Path.cwd()}: copy it there, or say "
        f"where it is ({key}=…)"
    )


def _foreign_code(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The keys that name code which is not this package's, not installed for this, and not in the working directory."""
    for function in config.rewards.functions:
        if function.name not in BUNDLED and not is_entry_point(function.name) and not _is_below_here(function.name):
            yield "rewards.functions", function.name
    workflow = config.rollout.workflow
    if workflow != "single_turn" and not _is_below_here(workflow):
        yield "rollout.workflow", workflow
    for name, value in config.rollout.engine.args.items():
        if name.startswith("trust") or not isinstance(
            value, int | float
        ):  # vLLM loads classes that it is given the names of
            yield f"rollout.engine.args.{name}", f"{value!r:.100}"


def _is_below_here(name: str) -> bool:
    file = name.partition(":")[0]
    return file.endswith(".py") and Path(file).resolve().is_relative_to(Path.cwd())


def _parents(key: str) -> set[str]:
    """The key, and those that it is a part of."""
    parts = key.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
