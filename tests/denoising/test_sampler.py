import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, LCMScheduler
from torch import Tensor
from torch.distributions import Normal

from areal.broker.errors import EngineError
from areal.denoising.gaussian import like
from areal.denoising.noise import Noise
from areal.denoising.sampler import Chain, sample
from areal.denoising.schedule import Schedule, schedule_of

SHAPE = (2, 3, 3)
SCHEDULES = [schedule_of(LCMScheduler()), schedule_of(CMStochasticIterativeScheduler())]


def denoise(x: Tensor, level: Tensor) -> Tensor:
    return torch.tanh(x.float() + like(level.float(), x) / 1000)


def made(
    schedule: Schedule, count: int = 4, wire: torch.dtype = torch.float32, seeds: tuple[int, ...] = (3, 4)
) -> Chain:
    return sample(denoise, schedule, schedule.levels(count), Noise(seeds, SHAPE), wire=wire)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("wire", [torch.float32, torch.float16])
def test_densities_are_those_of_the_latents_as_they_travel(schedule: Schedule, wire: torch.dtype) -> None:
    chain = made(schedule, wire=wire)
    assert chain.latents.shape == (4, 2, *SHAPE) and chain.latents.dtype == wire and chain.logprobs.shape == (3, 2)
    for step in range(3):
        here, then = (torch.full((2,), chain.levels[place]) for place in (step, step + 1))
        scale, std = schedule.target(then)
        mean = like(scale, chain.latents[0]) * denoise(chain.latents[step], here)
        density = (
            Normal(mean.double(), like(std, mean).double()).log_prob(chain.latents[step + 1].double()).flatten(1).sum(1)
        )
        assert (chain.logprobs[step].double() - density).abs().max() < 1e-4
    assert torch.equal(chain.clean, denoise(chain.latents[-1], torch.full((2,), chain.levels[-1])))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_have_the_mean_and_deviation_that_the_density_says(schedule: Schedule) -> None:
    chain = sample(denoise, schedule, schedule.levels(3), Noise(range(2000), SHAPE))
    for step in range(2):
        here, then = (torch.full((2000,), chain.levels[place]) for place in (step, step + 1))
        scale, std = schedule.target(then)
        noise = (chain.latents[step + 1] - like(scale, chain.latents[0]) * denoise(chain.latents[step], here)) / like(
            std, chain.latents[0]
        )
        assert abs(noise.mean().item()) < 0.02 and abs(noise.std().item() - 1) < 0.02


def test_an_image_is_the_same_whichever_others_are_made_with_it() -> None:
    together, alone = made(SCHEDULES[0], seeds=(3, 4, 5)), made(SCHEDULES[0], seeds=(4,))
    assert torch.equal(together.latents[:, 1:2], alone.latents) and torch.equal(together.clean[1:2], alone.clean)
    assert not torch.equal(together.clean[0], together.clean[1])


def test_a_group_may_share_what_it_begins_with() -> None:
    noise = Noise((3, 4), SHAPE, starts=(9, 9))
    chain = sample(denoise, SCHEDULES[0], SCHEDULES[0].levels(3), noise)
    assert torch.equal(chain.latents[0, 0], chain.latents[0, 1])
    assert not torch.equal(chain.latents[1, 0], chain.latents[1, 1])


def test_an_image_in_one_evaluation_takes_no_action() -> None:
    chain = made(SCHEDULES[0], count=1)
    assert chain.logprobs.shape == (0, 2) and chain.latents.shape == (1, 2, *SHAPE)


def test_a_network_that_says_no_number_is_stopped_at_once() -> None:
    def spoilt(x: Tensor, level: Tensor) -> Tensor:
        clean = denoise(x, level)
        clean[1, 0, 0, 0] = torch.inf if int(level[0]) < 500 else 0.0
        return clean

    schedule = SCHEDULES[0]
    with pytest.raises(EngineError, match=r"at level \d+ is not finite for 1 of 2 images.*model.dtype=bfloat16"):
        sample(spoilt, schedule, schedule.levels(4), Noise((3, 4), SHAPE))
