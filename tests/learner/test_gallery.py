from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from areal.broker.errors import ConfigError
from areal.broker.trajectory import DenoisingTrajectory, Group
from areal.denoising.images import draw_grid, to_images
from areal.learner.config import EvaluationConfig
from areal.learner.gallery import Gallery


def seen(row: int, pictures: list[np.ndarray[Any, Any]], label: int | None = None) -> Group[Any]:
    """A held-out row and the images of it."""
    image = DenoisingTrajectory(
        np.zeros((2, 1), np.float32),
        np.array([9, 1], np.int32),
        np.zeros(1, np.float32),
        0,
        {},
        1.0,
        seed=0,
        reward=0.0,
    )
    condition: dict[str, Any] = {"prompt": str(row)} if label is None else {"label": label}
    return Group(row, tuple(replace(image, condition=condition, picture=picture) for picture in pictures))


def grey(shade: int, side: int = 64) -> np.ndarray[Any, Any]:
    return np.full((side, side), shade, np.uint8)


def digits(label: int, count: int) -> list[np.ndarray[Any, Any]]:
    """Real ones, made as large as those of a model."""
    found = load_digits()
    chosen = torch.from_numpy(found.images[found.target == label][:count]).float()[:, None] / 8 - 1
    return [np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) for image in to_images(chosen)]


def test_a_grid_shows_what_was_before_beside_what_is_now(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, EvaluationConfig(pictures=4))
    first = {0: seen(0, [grey(10), grey(20)]), 1: seen(1, [grey(30), grey(40)])}
    assert gallery.draw(0, first)["pictures"] == "pictures/step-000000.png"
    later = {1: seen(1, [grey(130), grey(140)]), 0: seen(0, [grey(110), grey(120)])}
    found = Gallery(tmp_path, EvaluationConfig(pictures=4)).draw(20, later)
    sheet = np.asarray(Image.open(tmp_path / found["pictures"]))
    assert sheet.shape == (2 * 66 - 2, 2 * (2 * 66 - 2) + 10, 3)
    at = [[int(sheet[y, x, 0]) for x in (30, 96, 170, 236)] for y in (30, 96)]
    assert at == [[10, 20, 110, 120], [30, 40, 130, 140]]


def test_a_row_that_was_not_there_before_is_blank(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, EvaluationConfig(pictures=2))
    gallery.draw(0, {1: seen(1, [grey(30)])})
    for step in (5, 9):  # the second time too: it was there then, but not as it began
        drawn = gallery.draw(step, {0: seen(0, [grey(9)]), 1: seen(1, [grey(8)])})
        sheet = np.asarray(Image.open(tmp_path / drawn["pictures"]))
        assert [int(sheet[y, 30, 0]) for y in (30, 96)] == [255, 30]


def test_what_was_before_may_be_damaged(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, EvaluationConfig(pictures=1))
    gallery.draw(0, {0: seen(0, [grey(30)])})
    kept = tmp_path / "pictures" / "before.npz"
    whole = kept.read_bytes()
    for damaged in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole.replace(bytes([30]) * 9, bytes([31]) * 9)):
        kept.write_bytes(damaged)
        sheet = np.asarray(Image.open(tmp_path / gallery.draw(5, {0: seen(0, [grey(8)])})["pictures"]))
        assert [int(sheet[30, x, 0]) for x in (30, 106)] == [255, 8]


def test_without_pictures_there_is_nothing_to_see(tmp_path: Path) -> None:
    blind = replace(seen(0, [grey(1)]).trajectories[0], picture=None)
    gallery = Gallery(tmp_path, EvaluationConfig(judge="digits"))
    assert [see(0, {0: Group(0, (blind,))}) for see in (gallery.draw, gallery.measure, gallery.judge)] == [{}] * 3


def test_images_that_are_all_alike_have_no_diversity(tmp_path: Path) -> None:
    """Apart by d shades: each is d/2 off their mean, in units of 127.5."""
    gallery = Gallery(tmp_path, EvaluationConfig())
    assert gallery.measure(0, {0: seen(0, [grey(7), grey(7)])})["diversity"] == 0.0
    apart = gallery.measure(1, {0: seen(0, [grey(0), grey(51)]), 1: seen(1, [grey(200), grey(251)])})
    assert apart["diversity"] == pytest.approx(51 / 2 / 127.5)


def test_a_judge_knows_real_digits_from_digits_of_the_wrong_class(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, EvaluationConfig(judge="digits"))
    right = gallery.judge(0, {label: seen(label, digits(label, 40), label) for label in range(10)})
    assert right["judge_accuracy"] > 0.95 and right["frechet"] < 3
    wrong = gallery.judge(1, {label: seen(label, digits((label + 1) % 10, 40), label) for label in range(10)})
    assert wrong["judge_accuracy"] < 0.05 and wrong["frechet"] == pytest.approx(right["frechet"], abs=0.5)
    alike = {label: seen(label, digits(3, 1) * 40, label) for label in range(10)}
    assert gallery.judge(2, alike)["frechet"] > 10
    assert gallery.measure(2, alike)["diversity"] == pytest.approx(0, abs=1e-9)


def test_a_single_image_is_judged_but_has_no_distance(tmp_path: Path) -> None:
    """One has no covariance."""
    gallery = Gallery(tmp_path, EvaluationConfig(judge="digits"))
    assert gallery.judge(0, {4: seen(4, digits(4, 1), 4)}) == {"judge_accuracy": 1.0}
    assert set(gallery.judge(1, {4: seen(4, digits(4, 2), 4)})) == {"judge_accuracy", "frechet"}


def test_an_image_smaller_than_a_digit_is_judged_too(tmp_path: Path) -> None:
    small = [np.asarray(Image.fromarray(image).resize((6, 6))) for image in digits(0, 9)]
    assert Gallery(tmp_path, EvaluationConfig(judge="digits")).judge(0, {0: seen(0, small, 0)})["judge_accuracy"] > 0.5


def test_a_judge_wants_to_know_the_classes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="these have no label"):
        Gallery(tmp_path, EvaluationConfig(judge="digits")).judge(0, {0: seen(0, [grey(1), grey(2)])})


def test_a_sheet_takes_colours_and_large_images(tmp_path: Path) -> None:
    red = np.zeros((300, 300, 3), np.uint8)
    red[..., 0] = 250
    draw_grid([(None, red), (grey(5), red)], columns=1, path=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 258 - 2, 2 * 256 + 10, 3)
    assert sheet[300, 10].tolist() == [5, 5, 5] and sheet[300, 300].tolist() == [250, 0, 0]
