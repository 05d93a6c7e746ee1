import sys
from pathlib import Path

import pytest

from areal.broker.errors import ConfigError
from areal.rewards.loading import BUNDLED, load_object, load_reward


def test_bundled_names_load() -> None:
    assert {"sort", "count", "arithmetic", "jpeg_compressibility", "classifier"} <= BUNDLED.keys()
    assert all(callable(load_reward(name)) for name in BUNDLED)


def test_a_file_is_loaded_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("calls = 0\ndef f(): return 7\n")
    monkeypatch.chdir(tmp_path)
    assert load_reward("./mine.py:f")() == 7
    assert load_object(f"{tmp_path}/mine.py:calls") == 0


def test_a_file_shadows_nothing_and_sees_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "json.py").write_text("import neighbour_of_json\nimport json\nf = lambda: json.dumps([1])\n")
    (tmp_path / "neighbour_of_json.py").write_text("")
    assert load_reward(f"{tmp_path}/json.py:f")() == "[1]"
    assert sys.path[-1] == str(tmp_path)


def test_two_functions_of_a_file_share_their_module(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("def f(): return g\ndef g(): return 2\n")
    assert load_object(f"{tmp_path}/shared.py:f")() is load_object(f"{tmp_path}/shared.py:g")


def test_a_module_is_loaded_by_its_import_name() -> None:
    assert load_object("fractions:Fraction")(1, 2) == 0.5


def test_an_entry_point_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_reward.py").write_text("def f(): return 3\n")
    info = tmp_path / "their_reward-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-reward\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[areal.rewards]\ntheirs = their_reward:f\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert load_reward("theirs")() == 3
    with pytest.raises(ConfigError, match=r"did you mean 'theirs'\? available: .*arithmetic, .*count, .*sort, theirs"):
        load_reward("their")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "srot",
            r"no reward 'srot'; did you mean 'sort'\? available: .*arithmetic, .*count, .*sort.*\./file\.py:function",
        ),
        ("zzz", r"no reward 'zzz'; available: .*arithmetic, .*count, .*sort"),
        ("{folder}/mine.py:brevty", r"mine\.py has no 'brevty'; did you mean 'brevity'\? available: brevity, length"),
        ("{folder}/mien.py:brevity", r"no file .*/mien\.py; did you mean 'mine\.py'\?"),
        ("{folder}/mine.py:limit", r"is a int, not a function"),
        ("no_such_package.rewards:f", r"no module 'no_such_package' here"),
        ("fractions:Fractoin", r"fractions has no 'Fractoin'; did you mean 'Fraction'\?"),
        (":f", r"neither \./file\.py:name nor package\.module:name"),
    ],
)
def test_an_unknown_name_is_told_with_its_nearest(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "mine.py").write_text("limit = 3\ndef brevity(): ...\ndef length(): ...\ndef _private(): ...\n")
    with pytest.raises(ConfigError, match=message):
        load_reward(spec.format(folder=tmp_path))


def test_an_error_inside_the_file_passes_through(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    for _ in range(2):  # a half-made module must not be found the second time
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            load_object(f"{tmp_path}/broken.py:f")
