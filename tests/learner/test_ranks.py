"""Two ranks train as one does, whatever they train with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from areal.learner.ranks import ALONE, Ranks

from .test_trainer import save_tiny_llama
from .together import finish, start, train

CASES: dict[str, dict[str, Any]] = {
    "full": {"learner": {"tokens_per_microbatch": 30}},
    "one pass": {"learner": {"tokens_per_microbatch": 10_000}},
    "lora": {"model": {"lora": {"rank": 4}}, "algorithm": {"kl": {"coefficient": 0.1}}},
    "bfloat16": {"model": {"dtype": "bfloat16"}, "learner": {"tokens_per_microbatch": 30}},
    "checkpointed": {"model": {"gradient_checkpointing": True}, "learner": {"tokens_per_microbatch": 40}},
    "minibatches": {"learner": {"minibatches": 3}, "algorithm": {"kl": {"coefficient": 0.1}, "aggregate": "sequence"}},
    "critic": {"algorithm": {"advantage": {"name": "gae", "critic": {"optimizer": {"lr": 1e-3}}}}},
    "value head": {"algorithm": {"advantage": {"name": "gae", "critic": {"shared": True}}}},
    "value head on an adapter": {
        "model": {"lora": {"rank": 4}},
        "algorithm": {"advantage": {"name": "gae", "critic": {"shared": True}}},
    },
    "m2po": {"algorithm": {"objective": {"name": "m2po"}, "filters": {"truncated": "mask"}}},
    "spoilt": {"spoilt": [2], "learner": {"minibatches": 2}},
    "all spoilt": {"spoilt": [1, 3]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_llama(folder / "start")
    finish([start(rank, 2, str(folder), json.dumps(CASES)) for rank in range(2)])
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_come_to_the_weights_of_one(folder: Path, name: str) -> None:
    pupil, told = train(folder, CASES[name])
    leader, other = (torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(2))
    assert other["weights"] == {}
    wanted = pupil.weights()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if name == "bfloat16" else {"rtol": 1e-4, "atol": 1e-5}
    assert leader["weights"].keys() == wanted.keys()
    for key, weight in wanted.items():
        torch.testing.assert_close(leader["weights"][key], weight, **tolerance)
    for mine, its in zip(told, leader["told"], strict=True):
        assert_alike(mine, its, rel=0.05 if name == "bfloat16" else 1e-3)
    for mine, its in zip(leader["told"], other["told"], strict=True):
        assert_alike(mine, its, rel=0.0)


def test_each_rank_publishes_whole_tensors_of_its_own(folder: Path) -> None:
    leader, other = (torch.load(folder / f"full-{rank}.pt", weights_only=False) for rank in range(2))
    mine, its = leader["parts"], other["parts"]
    assert not mine.keys() & its.keys()
    together = mine | its
    assert together.keys() == leader["weights"].keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in leader["weights"].items())
    sizes = [sum(tensor.numel() for tensor in part.values()) for part in (mine, its)]
    assert max(sizes) < 0.6 * sum(sizes)
    assert leader["held"] + other["held"] == sum(sizes) and leader["held"] < 0.6 * sum(sizes)


@pytest.mark.parametrize(("sizes", "owners"), [([5, 1, 3, 3], [0, 0, 1, 1]), ([2, 2, 2], [0, 1, 0]), ([], [])])
def test_the_largest_tensor_goes_to_whoever_has_least(sizes: list[int], owners: list[int]) -> None:
    assert Ranks(0, 2)._owners(sizes) == owners


def test_alone_there_is_nothing_to_sum() -> None:
    assert ALONE.total([{"a": 1.0, "b": 2.0}, {"a": 0.5}]) == {"a": 1.5, "b": 2.0}
    assert ALONE.leads and ALONE.own([4, 5]) == [4, 5]


def assert_alike(mine: Any, its: Any, *, rel: float) -> None:
    """The same measurements, but for times and for what ranks work on for company."""
    if isinstance(mine, str):
        assert its == mine
        return
    assert its[1] == mine[1] and its[0].keys() == mine[0].keys()
    for key, value in mine[0].items():
        if not key.endswith("_s") and "_s_" not in key and key != "padding":
            assert its[0][key] == pytest.approx(value, rel=rel, abs=1e-4 if rel else 0.0), key


def test_what_a_rank_owns_is_a_copy() -> None:
    weight = torch.ones(3)
    for by_leader in (True, False):
        owned = ALONE.owned({"a": weight}, by_leader=by_leader)
        weight.add_(1.0)
        assert owned["a"].tolist() == (weight - 1.0).tolist()
