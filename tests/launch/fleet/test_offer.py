"""What a run offers, and what those who join take of it: bytes that anybody may have written."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import ConfigError
from areal.launch.config import RunConfig, load_run_config
from areal.launch.fleet import offer as offers
from areal.launch.fleet.offer import read_offer, write_offer

CONFIGS = Path(__file__).parents[3] / "configs"
SECRET = "redis://me:hush@host:7000/0"


def configured(name: str = "quickstart", *overrides: str) -> RunConfig:
    return load_run_config(CONFIGS / f"{name}.yaml", overrides)


def read(offer: bytes, *overrides: str, trusted: bool = False) -> RunConfig:
    return read_offer(offer, overrides, run="sort", trusted=trusted)


def refusal(offer: bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(offer, *overrides)
    return str(caught.value)


def changed(**parts: Any) -> bytes:
    """An offer that says this instead."""
    said = json.loads(write_offer(configured()))
    for key, value in parts.items():
        part, *names = key.split("__")
        place = said["config"]
        for name in [part, *names][:-1]:
            place = place[name]
        place[[part, *names][-1]] = value
    return json.dumps(said).encode()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUNS = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith(("warmstart", "consistency")))


@pytest.mark.parametrize("path", RUNS, ids=[path.stem for path in RUNS])
def test_every_configuration_arrives_as_it_was_but_for_its_redis(path: Path) -> None:
    config = load_run_config(path, [f"broker.url={SECRET}"])
    offer = write_offer(config)
    assert b"hush" not in offer
    arrived = read(offer)
    assert arrived.path == config.path and arrived.broker.url is None
    wanted = config.model_dump(mode="json") | {"directory": str(config.path.parent)}
    wanted["broker"]["url"] = None
    assert arrived.model_dump(mode="json") == wanted


def test_what_is_different_here_is_said_here() -> None:
    options = ("rollout.threads=3", "model.path=/models/sort", "directory=/mnt/runs", "rollout.engine.max_num_seqs=4")
    config = read(write_offer(configured()), *options)
    assert (config.rollout.threads, config.model.path, config.rollout.engine.max_num_seqs) == (3, "/models/sort", 4)
    assert config.path == Path("/mnt/runs/quickstart") and config.rollout.engine.kv_cache_mib == 64


@pytest.mark.parametrize("override", ["learner.steps=3", "rollout.group_size=2", "model.lora.rank=4", "rollout=3"])
def test_what_all_workers_have_in_common_cannot_be_said_here(override: str) -> None:
    said = refusal(write_offer(configured()), override)
    assert f"{override.partition('=')[0]} is the same for all workers of a run" in said and "rollout.threads" in said


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rollout.threads=0", "rollout.threads"),
        ("rollout.engine.max_nun_seqs=4", "did you mean rollout.engine.max_num_seqs"),
        ("rollout.threads", "not of the form key=value"),
    ],
)
def test_an_override_that_is_wrong_is_named(override: str, says: str) -> None:
    assert says in refusal(write_offer(configured()), override)


def reward_in(folder: Path, name: str = "mine.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("def f(completion): return 1.0\n")
    return folder / name


def with_reward(file: Path | str) -> bytes:
    return changed(rewards__functions=[{"name": f"{file}:f"}])


def test_a_reward_in_a_file_is_found_under_its_name_in_the_working_directory(here: Path) -> None:
    reward_in(here)
    config = read(with_reward("/elsewhere/project/mine.py"))
    assert config.rewards.functions[0].name == f"{here}/mine.py:f"


def test_a_file_that_is_not_here_is_named_with_its_key(here: Path) -> None:
    said = refusal(with_reward("/elsewhere/project/mine.py"))
    assert said.startswith(
        "rewards.functions names /elsewhere/project/mine.py:f, and there is no such file here, nor mine"
    )
    assert str(here) in said
    said = refusal(changed(rollout__workflow="/elsewhere/flow.py:Flow"))
    assert said.startswith("rollout.workflow names /elsewhere/flow.py:Flow")


def test_code_that_the_configuration_alone_names_is_not_run(
    here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = reward_in(tmp_path_factory.mktemp("elsewhere"))
    for offer, key in (
        (with_reward(elsewhere), f"rewards.functions ({elsewhere}:f)"),
        (changed(rewards__functions=[{"name": "os:system"}]), "rewards.functions (os:system)"),
        (changed(rollout__workflow="os:system"), "rollout.workflow (os:system)"),
        (changed(rollout__engine__args={"trust_remote_code": True}), "rollout.engine.args.trust_remote_code (True)"),
        (changed(rollout__engine__args={"worker_cls": "os:system"}), "rollout.engine.args.worker_cls ('os:system')"),
    ):
        assert key in refusal(offer) and "--trust" in refusal(offer)
        assert read(offer, trusted=True).run == "quickstart"
    config = read(with_reward(elsewhere), f"rewards.functions=[{{name: '{elsewhere}:f'}}]")
    assert config.rewards.functions[0].name == f"{elsewhere}:f", "what is said here is trusted"
    assert (
        read(changed(rollout__workflow="os:system"), "rollout.workflow=single_turn").rollout.workflow == "single_turn"
    )


def test_nothing_in_an_offer_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AREAL_REDIS_PASSWORD", "hush")
    text = "${oc.env:AREAL_REDIS_PASSWORD}"
    config = read(changed(rollout__sampling__stop=[text, "${", "???"]), "rollout.threads=2")
    assert config.rollout.sampling.stop == [text, "${", "???"]


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = write_offer(configured())
    monkeypatch.setattr(offers, "__version__", "9.9.9")
    assert "and this is 9.9.9: install the same here" in refusal(offer)


def test_a_configuration_that_is_too_long_is_not_offered() -> None:
    config = configured()
    config.rollout.sampling.stop = ["x" * 2**20]
    with pytest.raises(ConfigError, match="at most 1048576 fit"):
        write_offer(config)


@pytest.mark.parametrize(
    "offer",
    [b"", b"{", b"\xff", b"[]", b"3", b"{}", b'{"version": 1}', b"[" * 100_000, b'{"version": "0.1.0", "config": [1]}'],
)
def test_what_is_no_offer_is_refused(offer: bytes) -> None:
    assert "what is offered there is no configuration" in refusal(offer)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("${oc.env:HOME}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["rollout", "rollout__engine", "rollout__engine__args", "rewards", "model", "broker", "run", "odd"]
)


@settings(max_examples=150, deadline=None)
@given(key=KEYS, value=VALUES)
def test_an_offer_of_anything_is_a_configuration_or_refused(key: str, value: Any) -> None:
    try:
        assert isinstance(read(changed(**{key: value}), "rollout.threads=2"), RunConfig)
    except ConfigError as error:
        assert str(error)
