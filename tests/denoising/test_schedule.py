"""The schedules against the schedulers of diffusers, whose steps they must be to the last bit."""

from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, DDIMScheduler, LCMScheduler
from torch import Tensor

from areal.broker.errors import ModelError
from areal.denoising.gaussian import like
from areal.denoising.schedule import schedule_of

SHAPE = (3, 4, 8, 8)


def network(x: Tensor, time: Tensor) -> Tensor:
    return (x * 0.7 + torch.sin(3 * x) + like(time.float(), x) / 1000).float()


def steps_of(scheduler: Any, count: int) -> list[Tensor]:
    """The latents of a batch from noise to the image, as the scheduler makes them."""
    scheduler.set_timesteps(count)
    noise = torch.Generator().manual_seed(7)
    x = torch.randn(SHAPE, generator=noise) * scheduler.init_noise_sigma
    latents = [x]
    for time in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, time), time.expand(len(x)))
        x = scheduler.step(output, time, x, generator=noise, return_dict=False)[0]
        latents.append(x)
    return latents


def ours_of(scheduler: Any, count: int) -> list[Tensor]:
    """The same by a schedule; the last is the image, without noise."""
    schedule = schedule_of(scheduler)
    levels = schedule.levels(count)
    noise = torch.Generator().manual_seed(7)
    x = torch.randn(SHAPE, generator=noise) * schedule.initial_std
    latents = [x]
    for level, then in zip(levels, [*levels[1:], None], strict=True):
        level_M = torch.full((len(x),), level)
        output = network(*schedule.network_input(x, level_M))
        clean = schedule.clean(output, x, level_M)
        if then is None:
            x = clean
        else:
            scale_M, std_M = schedule.target(torch.full((len(x),), then))
            x = like(scale_M, x) * clean + like(std_M, x) * torch.randn(SHAPE, generator=noise)
        latents.append(x)
    return latents


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_step_is_that_of_the_lcm_scheduler(prediction: str, clipped: bool, count: int) -> None:
    scheduler = LCMScheduler(prediction_type=prediction, clip_sample=clipped)
    for ours, theirs in zip(ours_of(scheduler, count), steps_of(scheduler, count), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_step_is_that_of_the_scheduler_of_consistency_models(clipped: bool, count: int) -> None:
    """Theirs draws noise for the image too, of what rounding leaves of σ_min² − σ_min²."""
    scheduler = CMStochasticIterativeScheduler(clip_denoised=clipped)
    *ours, image = ours_of(scheduler, count)
    *theirs, noisy = steps_of(scheduler, count)
    assert all(torch.equal(left, right) for left, right in zip(ours, theirs, strict=True))
    torch.testing.assert_close(image, noisy, rtol=0, atol=5e-6)


def test_noise_is_scaled_as_the_scheduler_of_consistency_models_scales_it() -> None:
    scheduler = CMStochasticIterativeScheduler(s_noise=1.01)
    for ours, theirs in zip(ours_of(scheduler, 4), steps_of(scheduler, 4), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_levels_of_the_lcm_scheduler() -> None:
    """As measured on diffusers 0.42: the first is the noisiest there is, and each lies on the grid of 50."""
    assert schedule_of(LCMScheduler()).levels(8) == [999, 879, 759, 639, 499, 379, 259, 139]


@pytest.mark.parametrize("scheduler", [LCMScheduler(), CMStochasticIterativeScheduler()])
def test_more_levels_than_there_are_are_refused(scheduler: Any) -> None:
    with pytest.raises(ModelError, match="an image cannot be made in 60 steps"):
        schedule_of(scheduler).levels(60)


def test_no_step_leads_to_the_last_level_of_consistency_models_where_it_would_draw_no_noise() -> None:
    schedule = schedule_of(CMStochasticIterativeScheduler(num_train_timesteps=40))
    with pytest.raises(ModelError, match="an image cannot be made in 40 steps: 1 to 39 are possible"):
        schedule.levels(40)
    levels = schedule.levels(39)
    assert levels == list(range(39))
    assert (schedule.target(torch.tensor(levels))[1] > 0.002).all()  # σ_min
    assert schedule_of(CMStochasticIterativeScheduler(num_train_timesteps=1)).levels(1) == [0]


def test_a_scheduler_of_no_consistency_model_is_refused() -> None:
    with pytest.raises(ModelError, match="is a DDIMScheduler, and a consistency model is sampled by LCMScheduler"):
        schedule_of(DDIMScheduler())
    with pytest.raises(ModelError, match="thresholds by quantiles"):
        schedule_of(LCMScheduler(thresholding=True))
