"""The configuration of a run: YAML and `a.b=c` overrides, resolved and checked before anything starts."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..broker.address import without_secrets
from ..broker.config import BrokerConfig
from ..broker.errors import ConfigError
from ..denoising.config import DenoisingConfig
from ..learner.algorithm.config import AlgorithmConfig
from ..learner.config import (
    CheckpointConfig,
    ConsistencyConfig,
    DatasetConfig,
    EvaluationConfig,
    LearnerConfig,
    ModelConfig,
    StalenessConfig,
    WarmstartConfig,
)
from ..learner.data.config import HUB, PartConfig, kind_of
from ..rewards.config import RewardConfig, RewardsConfig
from ..rollout.config import RolloutConfig
from .cluster_config import ClusterConfig
from .parts import keys_and_models
from .secret import secret_keys
from .written import load_tree

Model = TypeVar("Model", bound=BaseModel)


class RunConfig(BaseModel):
    """Everything that `areal run` can be told."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's name; the file's by default")
    directory: Path = Field(Path("runs"), description="folder that holds the folders of runs")
    seed: int = Field(0)
    model: ModelConfig
    dataset: DatasetConfig
    rewards: RewardsConfig
    denoising: DenoisingConfig | None = Field(
        None, description="how images are made, where the policy is a consistency model; without it, a language model"
    )
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    staleness: StalenessConfig = Field(default_factory=StalenessConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    broker: BrokerConfig = Field(default_factory=BrokerConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> "RunConfig":
        if self.rollout.group_size == 1 and self.algorithm.compares:
            raise ValueError(
                f"rollout.group_size is 1, and nothing is learned from it: algorithm.advantage {self.algorithm.advantage.name} "
                f"(filters.constant {self.algorithm.filters.constant}) compares the answers of a group; take 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _lengths_fit_the_answers(self) -> "RunConfig":
        """Those that are left out are the greatest length of an answer."""
        longest = self.rollout.sampling.max_tokens if self.denoising is None else self.denoising.steps - 1
        self.algorithm = self.algorithm.with_lengths(longest)
        overlong = self.algorithm.shaping.overlong
        if overlong is None or overlong.max_length is None:
            return self
        begins, key = overlong.max_length - overlong.buffer, "algorithm.shaping.overlong"
        if begins < 0:
            raise ValueError(f"{key}.buffer ({overlong.buffer}) must not exceed its max_length ({overlong.max_length})")
        if begins >= longest and self.rollout.workflow == "single_turn":
            raise ValueError(
                f"{key} begins after {begins} tokens (max_length {overlong.max_length} less buffer {overlong.buffer}), and "
                f"no answer has more than rollout.sampling.max_tokens ({longest}): leave max_length out, or lower it"
            )
        return self

    @model_validator(mode="after")
    def _suits_the_policy(self) -> "RunConfig":
        """What images lack that texts have, and the other way round."""
        algorithm = self.algorithm
        if self.denoising is None:
            if algorithm.kl.estimator == "exact":
                raise ValueError("algorithm.kl.estimator exact is for image policies (denoising); take k1, k2 or k3")
            if self.model.lora is not None and self.model.lora.targets == "attention":
                raise ValueError(
                    "model.lora.targets attention is for image policies (denoising): take all-linear, or name them"
                )
            return self
        if self.model.lora is None:
            raise ValueError("model.lora is missing: of an image policy (denoising) an adapter is trained")
        if self.model.compile:
            raise ValueError("model.compile is true, and an image policy (denoising) is not compiled: set it to false")
        if self.learner.ranks > 1:
            raise ValueError(f"learner.ranks is {self.learner.ranks}: image policies are trained by one rank so far")
        if algorithm.advantage.name == "gae":
            raise ValueError("algorithm.advantage gae: there is no critic of images; take grpo or per_prompt, say")
        if algorithm.shaping.overlong is not None:
            raise ValueError("algorithm.shaping.overlong: an image has no length")
        if algorithm.objective.name == "rebel" and self.denoising.trained_actions is not None:
            raise ValueError(
                "denoising.trained_actions: rebel compares whole images; leave it out, or take another objective"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_travel(self) -> "RunConfig":
        if self.broker.weights == "direct" and self.model.lora is not None:
            raise ValueError(
                "broker.weights is direct, and model.lora makes an adapter, which engines of texts and images load from a "
                "folder: set broker.weights to auto, directory or redis, or (for texts) leave model.lora out"
            )
        return self

    @model_validator(mode="after")
    def _every_row_is_rewarded(self) -> "RunConfig":
        """Of a mixture, whose rows a reward can be for."""
        parts = [part.known_as for part in self.dataset.mixture]
        named = {source for function in self.rewards.functions for source in function.sources}
        if odd := sorted(named - set(parts)):
            known = f"has the parts {', '.join(parts)}" if parts else "is none"
            raise ValueError(f"rewards.functions.sources: {odd[0]!r} is no part of dataset.mixture, which {known}")
        if named and (
            left := [part for part in parts if not any(_is_for(each, part) for each in self.rewards.functions)]
        ):
            raise ValueError(f"rewards.functions: none rewards the rows of {left[0]!r} (sources): name it for one")
        return self

    @model_validator(mode="after")
    def _best_is_evaluated(self) -> "RunConfig":
        missing = "evaluation.every_steps" if self.evaluation.every_steps == 0 else "dataset.eval_size"
        if self.checkpoint.best and 0 in (self.evaluation.every_steps, self.dataset.eval_size):
            raise ValueError(
                f"checkpoint.best is {self.checkpoint.best} and {missing} 0: without evaluations no weights are the best; "
                f"set {missing} to 1 or more, or checkpoint.best to 0"
            )
        return self

    @model_validator(mode="after")
    def _may_be_written_down(self) -> "RunConfig":
        """What is handed on as it is, to functions and to vLLM, goes into the run directory and into Redis."""
        functions, parts = self.rewards.functions, self.dataset.mixture
        free = {f"rewards.functions.{index}.kwargs": function.kwargs for index, function in enumerate(functions)}
        free |= {f"dataset.mixture.{index}.kwargs": part.kwargs for index, part in enumerate(parts)}
        free |= {"dataset.kwargs": self.dataset.kwargs, "rollout.engine.args": self.rollout.engine.args}
        found = [key for place, value in free.items() for key in secret_keys(value, place)]
        if found:
            raise ValueError(
                f"{found[0]} would be written into the run directory and into Redis, and by its name it is secret: set it in the "
                "environment of areal, name that variable in cluster.pass_env, and have it read from there"
            )
        return self

    @property
    def path(self) -> Path:
        """The run directory."""
        return (self.directory / self.run).resolve()


def _is_for(function: RewardConfig, part: str) -> bool:
    return not function.sources or part in function.sources


class BrokerPart(BaseModel):
    """The part of a configuration that leads to a run's Redis."""

    broker: BrokerConfig = Field(default_factory=BrokerConfig)


class ModelPart(BaseModel):
    """The part of a configuration that says what is trained."""

    model: ModelConfig
    denoising: DenoisingConfig | None = None


class PretrainFile(BaseModel):
    """Everything that `areal pretrain` can be told: one of its two parts."""

    model_config = ConfigDict(extra="forbid")

    warmstart: WarmstartConfig | None = None
    consistency: ConsistencyConfig | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "PretrainFile":
        if (self.warmstart is None) == (self.consistency is None):
            raise ValueError("either warmstart (a small language model) or consistency (of images) is wanted")
        return self


def load_run_config(path: Path, overrides: Sequence[str] = (), *, resolved: bool = False) -> RunConfig:
    """The checked configuration of a run, files in it found relative to the YAML's folder. Raises ConfigError.

    Where an override gives a part another `name`, what the file says for the former part alone is left out; of a resolved
    file, which spells out every default, all that it says of that part.
    """
    tree = load_tree(path, overrides, RunConfig, resolved=resolved)
    tree.setdefault("run", path.stem)
    config = validated(RunConfig, tree, path)
    if config.cluster.address is not None and config.broker.url is None:
        raise ConfigError(
            f"{path}: cluster.address needs broker.url: the roles on other nodes must reach the same Redis"
        )
    folder = path.resolve().parent
    config.model.path = _found_folder(config.model.path, folder)
    sources: list[DatasetConfig | PartConfig] = [config.dataset, *config.dataset.mixture]
    for rows in sources:
        rows.source = rows.source and _found_rows(rows.source, folder)
        rows.eval_source = rows.eval_source and _found_rows(rows.eval_source, folder)
    if config.denoising is not None and config.denoising.consistency_lora is not None:
        config.denoising.consistency_lora = _found_folder(config.denoising.consistency_lora, folder)
    if config.evaluation.judge is not None:
        config.evaluation.judge = _found_folder(config.evaluation.judge, folder)
    config.rollout.workflow = _found(config.rollout.workflow, folder)
    if isinstance(config.cluster.ship, list):
        config.cluster.ship = [_found_path(name, folder) for name in config.cluster.ship]
    for reward in config.rewards.functions:
        reward.name = _found(reward.name, folder)
    return config


def load_pretrain_config(path: Path, overrides: Sequence[str] = ()) -> WarmstartConfig | ConsistencyConfig:
    """The checked configuration of a model made from nothing, paths in it relative to the YAML's folder. Raises ConfigError."""
    file, folder = validated(PretrainFile, load_tree(path, overrides, PretrainFile), path), path.resolve().parent
    config = file.warmstart or file.consistency
    assert config is not None
    config.output = folder / config.output
    if isinstance(config, ConsistencyConfig):
        config.data = _found_folder(config.data, folder)
    return config


def load_broker_config(path: Path) -> BrokerConfig:
    """What a run's config.yaml says of the broker, whatever the rest of it says. Raises ConfigError."""
    return validated(BrokerPart, load_tree(path, (), BrokerPart), path).broker


def load_model_part(path: Path) -> ModelPart:
    """What a run's config.yaml says of the model, whatever the rest of it says. Raises ConfigError."""
    return validated(ModelPart, load_tree(path, (), ModelPart), path)


def to_yaml(config: BaseModel) -> str:
    """The resolved configuration, as it goes into the run directory, without secrets."""
    text: str = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
    return text


def validated(model: type[Model], tree: Mapping[str, Any], path: Path) -> Model:
    """The tree as a model; raises ConfigError naming each key that is wrong and what was wanted."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        wrongs = [_explain(model, wrong) for wrong in error.errors()]
        raise ConfigError("\n".join(f"{path}: {wrong}" for wrong in wrongs)) from error


def _explain(model: type[BaseModel], wrong: Any) -> str:
    *names, last = keys_and_models(model, wrong["loc"])[0] or [""]
    key = ".".join([*names, last])
    if wrong["type"] == "extra_forbidden":
        prefix = "".join(name + "." for name in names)
        known = [field for kind in keys_and_models(model, wrong["loc"][:-1])[1] for field in kind.model_fields]
        return f"unknown key {key}; {_hint(last, known, prefix)}"
    if wrong["type"] == "union_tag_invalid":
        known = [tag.strip("'") for tag in wrong["ctx"]["expected_tags"].split(", ")]
        return f"{key}.name: there is no {wrong['ctx']['tag']}; {_hint(wrong['ctx']['tag'], known)}"
    if wrong["type"] == "missing":
        return f"{key} is missing"
    if wrong["type"] == "value_error":  # of a validator of ours, which names what it has seen
        return f"{key or 'the configuration'}: {without_secrets(str(wrong['ctx']['error']))}"
    return f"{key or 'the configuration'}: {wrong['msg']} (got {without_secrets(repr(wrong['input']))})"


def _hint(seen: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(seen, known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"


def _found_path(name: str, folder: Path) -> str:
    """An absolute path for what names a file or a folder. Raises ConfigError where there is neither."""
    places = (folder / Path(name).expanduser(), Path.cwd() / Path(name).expanduser())
    for place in places:
        if place.exists():
            return str(place.resolve())
    raise ConfigError(f"cluster.ship: {name!r} is neither a file nor a folder, beside the configuration or here")


def _found_folder(name: str, folder: Path) -> str:
    """An absolute path for what names a folder; names of other things as they are."""
    places = (folder / Path(name).expanduser(), Path.cwd() / Path(name).expanduser())
    return next((str(place.resolve()) for place in places if place.is_dir()), name)


def _found_rows(name: str, folder: Path) -> str:
    """An absolute path for what names a file or a folder of rows, hf:folder too; names of other things as they are."""
    if name.startswith(HUB):
        return f"{HUB}{_found_folder(name.removeprefix(HUB), folder)}"
    places = (folder / Path(name).expanduser(), Path.cwd() / Path(name).expanduser())
    is_path = "/" in name or kind_of(Path(name)) is not None
    return next((str(place.resolve()) for place in places if is_path and place.exists()), name)


def _found(name: str, folder: Path) -> str:
    """An absolute path for what names a file, `file.py:object` too; names of other things as they are."""
    file, colon, rest = name.partition(":")
    if not file.endswith(".py"):
        return name
    for place in (folder / file, Path.cwd() / file):
        if place.is_file():
            return f"{place.resolve()}{colon}{rest}"
    return name
