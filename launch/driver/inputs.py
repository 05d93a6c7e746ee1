"""What a configuration names beside the model, looked at before any process is started: rows, rewards, the judge."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...broker.errors import ConfigError
from ..config import RunConfig
from ..models.path import require_vllm

if TYPE_CHECKING:
    from ...learner.dataset import Dataset


def check_inputs(config: RunConfig) -> None:
    """Find what is wrong with the data and the rewards. Raises ConfigError, and EngineError where vLLM is missing."""
    check_environment(config)
    check_judge(config, rows_of(config).eval_rows())
    check_rewards(config)
    if config.cluster.address is None and config.denoising is None:
        require_vllm()


def check_environment(config: RunConfig) -> None:
    """Raise ConfigError for a variable that roles are to get, and that is not there."""
    missing = [name for name in config.cluster.pass_env if name not in os.environ]
    if missing:
        raise ConfigError(f"cluster.pass_env: {missing[0]} is not set in this environment: set it, or leave it out")


def rows_of(config: RunConfig) -> "Dataset":
    """The rows; raises ConfigError for what cannot be read."""
    from ...learner.dataset import Dataset

    return Dataset(config.dataset)


def check_rewards(config: RunConfig) -> None:
    """Raise ConfigError for a reward function that cannot be loaded, takes what it is not given, or has not the time."""
    from ...rewards.loading import load_reward
    from ...rewards.reward import prepare, require_takes

    for reward in config.rewards.functions:
        try:
            loaded = prepare(reward.name, load_reward(reward.name), reward.kwargs)
            require_takes(loaded, images=config.denoising is not None)
            loaded.require_in_time(config.rewards.timeout_s)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # the user's own file fails as it is loaded
            raise ConfigError(f"rewards.functions: {reward.name}: {type(error).__name__}: {error}") from error


def check_judge(config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError for a judge that knows no classes, and for held-out rows that are of none that it knows."""
    if config.denoising is None or config.evaluation.judge is None:
        return
    from ...learner.picture_files import find_pictures

    key, source = "evaluation.judge", config.evaluation.judge
    classes = find_pictures(source, key=key).classes
    if len(classes) < 2:
        raise ConfigError(f"{key}: {source} holds the class {classes[0]!r} alone, and a judge tells two or more apart")
    for row in rows:
        label = row.get("label")
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(classes):
            raise ConfigError(
                f"{key}: a held-out row has the label {label!r:.100}, and {source} knows the classes 0 to "
                f"{len(classes) - 1}: give every row a label (dataset), or set {key} to null"
            )
