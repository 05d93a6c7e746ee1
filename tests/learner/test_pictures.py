from pathlib import Path

import pytest
import torch
from PIL import Image

from areal.broker.errors import ConfigError
from areal.learner.picture_files import find_pictures
from areal.learner.pictures import load_pictures


def folder_of(tmp_path: Path) -> Path:
    """Two classes, of blue and of white pictures, wider than high."""
    for name, color in (("blue", (0, 0, 255)), ("white", (255, 255, 255))):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 12), color).save(tmp_path / name / f"{number}.png")
        (tmp_path / name / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_of_folders_is_read(tmp_path: Path) -> None:
    found = load_pictures(str(folder_of(tmp_path)), 4, key="consistency.data")
    assert found.images.shape == (6, 3, 4, 4) and found.classes == ("blue", "white")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.images[0, :, 0, 0].tolist() == [-1, -1, 1] and found.images[3].unique().tolist() == [1]


def test_some_are_held_out_always_the_same() -> None:
    first, again = (load_pictures("digits", 8, key="consistency.data").split() for _ in range(2))
    assert torch.equal(first[1].images, again[1].images) and torch.equal(first[1].labels, again[1].labels)


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"consistency.data: '.*nothing' is neither 'digits' nor a folder"):
        load_pictures(str(tmp_path / "nothing"), 8, key="consistency.data")
    with pytest.raises(ConfigError, match="neither 'digits' nor a folder"):
        load_pictures(str(tmp_path), 8, key="consistency.data")
    with pytest.raises(ConfigError, match="the digits are 8 pixels wide, not 16"):
        load_pictures("digits", 16, key="consistency.data")


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "white" / "9.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"the picture .*9.png cannot be read"):
        load_pictures(str(folder), 4, key="consistency.data")


def test_pictures_are_found_before_they_are_read_and_the_key_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "white" / "9.png").write_bytes(b"no picture")
    found = find_pictures(str(folder), key="evaluation.judge")
    assert found.classes == ("blue", "white") and [label for _, label in found.files] == [0] * 3 + [1] * 4
    assert find_pictures("digits", key="evaluation.judge").classes == tuple("0123456789")
    with pytest.raises(ConfigError, match=r"^evaluation\.judge: 'nosuch' is neither 'digits' nor a folder"):
        find_pictures("nosuch", key="evaluation.judge")
    with pytest.raises(ConfigError, match=r"^evaluation\.judge: the picture .*9.png cannot be read"):
        load_pictures(str(folder), 4, key="evaluation.judge")
