import pytest
import torch

from areal.learner.algorithm.shaping import overlong_penalty, shaped


def test_shaped_pinned_by_hand() -> None:
    rewards = torch.tensor([0.0, 0.5, 1.0, 9.0, -9.0])
    assert shaped(rewards, scale=10.0, bias=-0.5, clip=20.0).tolist() == [-5.0, 0.0, 5.0, 20.0, -20.0]
    assert shaped(rewards, scale=10.0, bias=-0.5, clip=None).tolist() == [-5.0, 0.0, 5.0, 85.0, -95.0]
    assert shaped(rewards.double(), scale=1.0, bias=0.0, clip=None).dtype == torch.float32


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_refuses_a_clip_that_is_not_positive(clip: float) -> None:
    with pytest.raises(ValueError, match="clip is"):
        shaped(torch.zeros(1), scale=1.0, bias=0.0, clip=clip)


def test_overlong_penalty_pinned_by_hand() -> None:
    lengths = torch.tensor([0, 80, 85, 90, 100, 101, 1000])
    penalties = overlong_penalty(lengths, max_length=100, buffer=20, factor=2.0)
    assert penalties.tolist() == [0.0, 0.0, -0.5, -1.0, -2.0, -2.0, -2.0]
    assert penalties.dtype == torch.float32


def test_overlong_penalty_equals_the_paper() -> None:
    """DAPO, eq. 13, with L_max = 50 and L_cache = 15."""
    lengths = list(range(70))
    expected = [0.0 if n <= 35 else (35 - n) / 15 if n <= 50 else -1.0 for n in lengths]
    penalties = overlong_penalty(torch.tensor(lengths), max_length=50, buffer=15, factor=1.0)
    assert penalties.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_refuses_a_buffer_out_of_range(buffer: int) -> None:
    with pytest.raises(ValueError, match=r"buffer is -?\d+, not from 1 to max_length = 100"):
        overlong_penalty(torch.zeros(1), max_length=100, buffer=buffer, factor=1.0)
