import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from areal.broker.errors import TrainingError
from areal.learner.config import OptimizerConfig
from areal.learner.optimizer import Optimizer, learning_rate


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_the_rate_rises_and_then_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule=schedule)
    assert [learning_rate(config, step, 6) for step in range(6)] == pytest.approx(rates)


def test_the_rate_ends_at_zero_and_stays() -> None:
    for schedule in ("linear", "cosine"):
        config = OptimizerConfig(lr=1.0, schedule=schedule)
        assert learning_rate(config, 6, 6) == learning_rate(config, 9, 6) == 0.0


def made(lr: float = 0.1, **options: float) -> tuple[list[Parameter], Optimizer]:
    parameters = [Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([[3.0]]))]
    return parameters, Optimizer(parameters, OptimizerConfig(lr=lr, **options), total_steps=10)


def take_over(optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """As a checkpoint does: into the optimiser's own tensors."""
    own = optimizer.state()
    assert own.keys() == state.keys()
    for name, tensor in own.items():
        tensor.copy_(state[name])


def push(parameters: list[Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_first_step_moves_by_the_rate_against_the_gradient() -> None:
    parameters, optimizer = made()
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, -4.0]), torch.tensor([[0.0]])
    norm, rate = optimizer.step(0)
    assert (norm, rate) == (pytest.approx(5.0), 0.1)
    torch.testing.assert_close(parameters[0].detach(), torch.tensor([0.9, -1.9]))
    assert parameters[0].grad is None


def test_a_state_taken_over_continues_bit_for_bit() -> None:
    parameters, optimizer = made()
    for seed in range(3):
        push(parameters, seed)
        optimizer.step(seed)
    others, other = made()
    for parameter, source in zip(others, parameters, strict=True):
        parameter.data.copy_(source.data)
    take_over(other, optimizer.state())
    for seed in range(3, 6):
        push(parameters, seed)
        push(others, seed)
        assert optimizer.step(seed) == other.step(seed)
    assert all(torch.equal(left, right) for left, right in zip(parameters, others, strict=True))
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in optimizer.state().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused(value: float) -> None:
    parameters, optimizer = made()
    before = [parameter.detach().clone() for parameter in parameters]
    push(parameters, 0)
    assert parameters[0].grad is not None
    parameters[0].grad[0] = value
    with pytest.raises(TrainingError, match=r"norm is .* at step 4"):
        optimizer.step(4)
    assert all(torch.equal(left, right) for left, right in zip(parameters, before, strict=True))
    assert parameters[0].grad is None and not any(tensor.any() for tensor in optimizer.state().values())


def test_moments_made_before_the_first_step_are_those_of_adamw() -> None:
    (early, optimizer), (late, other) = made(), made()
    assert sorted(optimizer.state()) == sorted(
        f"{i}.{name}" for i in (0, 1) for name in ("step", "exp_avg", "exp_avg_sq")
    )
    for seed in range(3):
        push(early, seed)
        push(late, seed)
        assert optimizer.step(seed) == other.step(seed)
    assert all(torch.equal(left, right) for left, right in zip(early, late, strict=True))
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in optimizer.state().items())


def test_nothing_is_changed_before_who_asked_for_it_is_called() -> None:
    parameters, optimizer = made()
    seen: list[list[float]] = []
    optimizer.before_update(lambda: seen.append([*parameters[0].tolist(), float(optimizer.state()["0.step"])]))
    for step in range(2):
        push(parameters, step)
        optimizer.step(step)
    assert seen[0] == [1.0, -2.0, 0.0] and seen[1][:2] != seen[0][:2] and seen[1][2] == 1.0


def trained_in(dtype: torch.dtype, *, microbatches: int, steps: int, lr: float) -> Parameter:
    """A weight near 1 pulled down by small gradients, a few in each step."""
    parameter = Parameter(torch.tensor([1.0, 2.0], dtype=dtype))
    optimizer = Optimizer(
        [parameter], OptimizerConfig(lr=lr, betas=(0.0, 0.0), eps=1.0, max_grad_norm=1e9), total_steps=9
    )
    for step in range(steps):
        for number in range(microbatches):
            (parameter.float() * (1.0 if number == 0 else 1e-3)).sum().backward()
        optimizer.step(step)
    return parameter


def test_16_bits_lose_neither_small_updates_nor_small_gradients() -> None:
    """In bfloat16, 1 − 0.0005 is 1, and so is 1 + 0.001."""
    small = trained_in(torch.bfloat16, microbatches=1, steps=40, lr=1e-3)
    torch.testing.assert_close(small.detach().float(), torch.tensor([0.98, 1.98]), rtol=4e-3, atol=0)
    masters = {}
    for dtype in (torch.bfloat16, torch.float32):
        parameter = Parameter(torch.tensor([1.0], dtype=dtype))
        optimizer = Optimizer([parameter], OptimizerConfig(lr=1.0, max_grad_norm=1e9), total_steps=9)
        for number in range(101):
            (parameter.float() * (1.0 if number == 0 else 1e-3)).sum().backward()
        masters[dtype] = optimizer.step(0)[0]
    assert masters[torch.bfloat16] == pytest.approx(masters[torch.float32], rel=1e-2)
    assert masters[torch.float32] == pytest.approx(1.1, rel=1e-4)


def test_a_16_bit_state_taken_over_continues_bit_for_bit() -> None:
    def made_in_16_bits() -> tuple[Parameter, Optimizer]:
        parameter = Parameter(torch.tensor([1.0, -2.0], dtype=torch.bfloat16))
        return parameter, Optimizer([parameter], OptimizerConfig(lr=1e-3), total_steps=10)

    def advance(parameter: Parameter, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            (parameter.float().square() * (step + 1)).sum().backward()
            optimizer.step(step)

    whole, optimizer = made_in_16_bits()
    advance(whole, optimizer, range(20))
    first, optimizer = made_in_16_bits()
    advance(first, optimizer, range(7))
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    assert "0.master" in state and state["0.master"].dtype == torch.float32
    second, resumed = made_in_16_bits()
    with torch.no_grad():
        second.copy_(first)
    take_over(resumed, state)
    advance(second, resumed, range(7, 20))
    assert torch.equal(second, whole)
