import json
import math
import statistics

import pytest
import torch

from areal.learner.algorithm.value import ValueNormaliser, clipped_value_loss


# V_old = 1 and c = 0.5: V_clip is V within [0.5, 1.5]; the gradient is V − R unless V_clip is the farther from R
@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient", "clipped"),
    [
        pytest.param(1.25, 2.0, 0.28125, -0.75, 0, id="inside the clip"),
        pytest.param(2.0, 3.0, 1.125, 0.0, 1, id="too far towards the return"),
        pytest.param(2.0, 0.0, 2.0, 2.0, 0, id="too far away from the return"),
        pytest.param(0.0, -1.0, 1.125, 0.0, 1, id="too far down, towards the return"),
        pytest.param(4.0, 2.0, 2.0, 2.0, 0, id="past the return, and farther than the clip"),
    ],
)
def test_pinned_by_hand(value: float, target: float, loss: float, gradient: float, clipped: int) -> None:
    values = torch.tensor([value], requires_grad=True)
    found, num_clipped = clipped_value_loss(
        values, torch.tensor([1.0]), torch.tensor([target]), clip=0.5, weights_A=torch.ones(1)
    )
    found.backward()
    assert values.grad is not None
    assert (found.item(), values.grad.item(), num_clipped.item()) == pytest.approx((loss, gradient, clipped))


def test_equals_a_loop_over_actions() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, returns = torch.randn(3, 50, generator=generator)
    weights = torch.rand(50, generator=generator)
    expected, clipped = 0.0, 0
    for v, v_old, r, w in zip(values.tolist(), old.tolist(), returns.tolist(), weights.tolist(), strict=True):
        v_clip = min(max(v, v_old - 0.3), v_old + 0.3)
        expected += w * 0.5 * max((v - r) ** 2, (v_clip - r) ** 2)
        clipped += (v_clip - r) ** 2 > (v - r) ** 2
    loss, num_clipped = clipped_value_loss(values, old, returns, clip=0.3, weights_A=weights)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert num_clipped.item() == clipped > 0


def test_an_infinite_clip_is_the_squared_error() -> None:
    values, old, returns = torch.tensor([1.0, 5.0]), torch.tensor([0.0, -9.0]), torch.tensor([3.0, 4.0])
    loss, num_clipped = clipped_value_loss(values, old, returns, clip=math.inf, weights_A=torch.tensor([1.0, 2.0]))
    assert (loss.item(), num_clipped.item()) == (3.0, 0)  # 1·½·4 + 2·½·1


def test_actions_without_weight_count_for_nothing() -> None:
    nan = float("nan")
    values = torch.tensor([2.0, nan, 2.0], requires_grad=True)
    old, returns = torch.tensor([1.0, nan, 1.0]), torch.tensor([2.5, nan, 3.0])
    weights = torch.tensor([1.0, 0.0, 0.0])
    loss, num_clipped = clipped_value_loss(values, old, returns, clip=9.0, weights_A=weights)
    loss.backward()
    assert values.grad is not None
    assert (loss.item(), num_clipped.item()) == (0.125, 0)
    assert values.grad.tolist() == [-0.5, 0.0, 0.0]


def test_rounding_never_counts_as_clipping() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    loss, num_clipped = clipped_value_loss(values, values - 3.3, values * 3, clip=9.0, weights_A=torch.ones(1000))
    assert num_clipped.item() == 0 and loss.item() > 0


def test_refuses_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"shapes \[2\] and \[3\]"):
        clipped_value_loss(torch.zeros(2), torch.zeros(2), torch.zeros(3), clip=1.0, weights_A=torch.ones(2))


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_refuses_a_clip_that_is_not_positive(clip: float) -> None:
    with pytest.raises(ValueError, match="clip is"):
        clipped_value_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), clip=clip, weights_A=torch.ones(1))


def test_normaliser_pinned_by_hand() -> None:
    normaliser = ValueNormaliser(beta=0.5)
    normaliser.update(torch.tensor([1.0, 3.0]))
    assert (normaliser.mean, normaliser.std) == pytest.approx((2.0, 1.0))  # the first batch alone, no zero mixed in
    normaliser.update(torch.tensor([5.0, 9.0]))
    # weights 1/4 and 1/2: mean (2/4 + 7/2)/(3/4) = 16/3, of squares (5/4 + 53/2)/(3/4) = 37
    assert (normaliser.mean, normaliser.std) == pytest.approx((16 / 3, (37 - 256 / 9) ** 0.5))


def test_an_old_batch_weighs_as_a_new_one_where_beta_nears_one() -> None:
    normaliser = ValueNormaliser()
    batches = [[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]]
    for batch in batches:
        normaliser.update(torch.tensor(batch))
    returns = [value for batch in batches for value in batch]
    assert normaliser.mean == pytest.approx(statistics.fmean(returns), rel=1e-4)
    assert normaliser.std == pytest.approx(statistics.pstdev(returns), rel=1e-4)


def test_normalise_and_denormalise_pinned_by_hand() -> None:
    normaliser = ValueNormaliser()
    normaliser.update(torch.tensor([2.0, 6.0]))  # mean 4, deviation 2
    assert normaliser.normalise(torch.tensor([2.0, 6.0, 8.0])).tolist() == pytest.approx([-1.0, 1.0, 2.0])
    assert normaliser.denormalise(torch.tensor([-1.0, 1.0, 2.0])).tolist() == pytest.approx([2.0, 6.0, 8.0])


def test_a_fresh_normaliser_changes_nothing() -> None:
    normaliser = ValueNormaliser()
    normaliser.update(torch.zeros(0))
    assert normaliser.normalise(torch.tensor([3.0, -7.0])).tolist() == [3.0, -7.0]
    assert normaliser.denormalise(torch.tensor([3.0, -7.0])).tolist() == [3.0, -7.0]


def test_the_variance_has_a_floor() -> None:
    normaliser = ValueNormaliser(min_variance=0.25)
    normaliser.update(torch.tensor([3.0, 3.0]))
    assert normaliser.normalise(torch.tensor([4.0])).tolist() == pytest.approx([2.0])


def test_continues_from_a_state_written_as_json() -> None:
    original, copy = ValueNormaliser(beta=0.9), ValueNormaliser(beta=0.9)
    original.update(torch.tensor([1.0, 2.5]))
    copy.load(json.loads(json.dumps(original.state())))
    for normaliser in (original, copy):
        normaliser.update(torch.tensor([0.3]))
    assert (copy.mean, copy.std) == (original.mean, original.std)


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_refuses_a_beta_out_of_range(beta: float) -> None:
    with pytest.raises(ValueError, match="beta is"):
        ValueNormaliser(beta=beta)
