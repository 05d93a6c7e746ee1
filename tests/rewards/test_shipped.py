"""Paths on a node to which files were shipped."""

import os
import sys
from pathlib import Path

import pytest

from areal.broker.errors import ConfigError
from areal.rewards.shipped import FOLDER, FOLDER_VARIABLE, PASSED_VARIABLE, Given, find_shipped, renamed

MOVED = {"/home/me": "/n/0", "/home/me/rows.jsonl": "/n/1/rows.jsonl"}


@pytest.mark.parametrize(
    ("value", "now"),
    [
        ("/home/me/my_reward.py:brevity", "/n/0/my_reward.py:brevity"),
        ("/home/me", "/n/0"),
        ("/home/me/rows.jsonl", "/n/1/rows.jsonl"),
        ("hf:/home/me/set", "hf:/n/0/set"),
        ("/home/men/rows.jsonl", "/home/men/rows.jsonl"),
        ("see /home/me/x", "see /home/me/x"),
        ("redis://home/me", "redis://home/me"),
        ({"a": ["/home/me/x", 3, None, True]}, {"a": ["/n/0/x", 3, None, True]}),
    ],
)
def test_paths_are_named_as_they_are_there(value: object, now: object) -> None:
    assert renamed(value, MOVED) == now


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where another node has what was shipped."""
    folder = tmp_path / "_ray_pkg_1" / FOLDER
    (folder / "0").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder.parent)])
    return folder


def test_an_actor_elsewhere_has_what_its_role_was_given(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "0").mkdir(parents=True)
    monkeypatch.chdir(own / "0")
    for name, value in ((FOLDER_VARIABLE, str(own)), (PASSED_VARIABLE, "JUDGE_KEY,ABSENT"), ("JUDGE_KEY", "k3y")):
        monkeypatch.setenv(name, value)
    given = Given.here()
    assert "k3y" not in repr(given)
    monkeypatch.delenv("JUDGE_KEY")
    monkeypatch.setattr("os.environ", {})
    assert given.take([[f"{own}/0/mine.py:f", {}]]) == [[f"{node}/0/mine.py:f", {}]]
    assert Path.cwd() == node / "0"
    assert os.environ == {"JUDGE_KEY": "k3y"}


def test_where_nothing_was_shipped_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert Given.here().take([["/home/me/x.py:f", {}]]) == [["/home/me/x.py:f", {}]]
    with pytest.raises(ConfigError, match="not on this node"):
        find_shipped()
