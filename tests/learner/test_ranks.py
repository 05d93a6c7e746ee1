"""Two ranks, or three, train as one does, whatever they train with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from areal.learner.pupil import Pupil
from areal.learner.ranks import ALONE, Ranks

from .test_trainer import VOCAB, save_tiny_llama
from .together import begin, masters, train, train_together

CRITIC = {"name": "gae", "critic": {"optimizer": {"lr": 1e-3}}}
VALUE_HEAD = {"name": "gae", "critic": {"shared": True}}

CASES: dict[str, dict[str, Any]] = {
    "full": {"learner": {"tokens_per_microbatch": 30}},
    "one pass": {"learner": {"tokens_per_microbatch": 10_000}},
    "a pass for company": {"lone": True, "algorithm": {"filters": {"truncated": "mask"}}},
    "chunks of logits": {"max_logits": 4 * VOCAB, "learner": {"tokens_per_microbatch": 30}},
    "tied": {"start": "tied", "learner": {"tokens_per_microbatch": 30}},
    "lora": {"model": {"lora": {"rank": 4}}, "algorithm": {"kl": {"coefficient": 0.1}}},
    "checkpointed": {"model": {"gradient_checkpointing": True}, "learner": {"tokens_per_microbatch": 40}},
    "minibatches": {"learner": {"minibatches": 3}, "algorithm": {"kl": {"coefficient": 0.1}, "aggregate": "sequence"}},
    "critic": {"algorithm": {"advantage": CRITIC}},
    "critic, checkpointed": {"model": {"gradient_checkpointing": True}, "algorithm": {"advantage": CRITIC}},
    "value head": {"algorithm": {"advantage": VALUE_HEAD}},
    "value head on an adapter": {"model": {"lora": {"rank": 4}}, "algorithm": {"advantage": VALUE_HEAD}},
    "m2po": {"algorithm": {"objective": {"name": "m2po"}, "filters": {"truncated": "mask"}}},
    "spoilt": {"spoilt": [2], "learner": {"minibatches": 2}},
    "all spoilt": {"spoilt": [1, 3]},
    "bfloat16": {"model": {"dtype": "bfloat16"}, "learner": {"tokens_per_microbatch": 30}},
    "bfloat16, lora": {"model": {"dtype": "bfloat16", "lora": {"rank": 4}}, "learner": {"tokens_per_microbatch": 30}},
    "bfloat16, critic": {"model": {"dtype": "bfloat16"}, "algorithm": {"advantage": CRITIC}},
    "bfloat16, value head": {"model": {"dtype": "bfloat16"}, "algorithm": {"advantage": VALUE_HEAD}},
}
RESUMED = {"algorithm": {"advantage": CRITIC}}
"""Four steps of which two are taken by one rank and two by two of them come to the weights of this."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_llama(folder / "start")
    tied = LlamaConfig.from_pretrained(folder / "start", tie_word_embeddings=True)
    LlamaForCausalLM(tied).save_pretrained(folder / "tied")
    train(folder, RESUMED | {"until": 2, "saved": "by one"})
    cases = CASES | {
        "two steps": RESUMED | {"until": 2, "saved": "by two"},
        "two more": RESUMED | {"resumes": "by one"},
    }
    train_together(folder, {2: cases, 3: {"three": CASES["critic"]}})
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_come_to_the_weights_of_one(folder: Path, name: str) -> None:
    pupil, told = train(folder, CASES[name])
    leader, other = results(folder, name, 2)
    assert other["weights"] == {}
    assert_moved_alike(leader["masters"], pupil, begin(folder, CASES[name]), within=0.02 if rounded(name) else 1e-5)
    if not rounded(name):
        wanted = pupil.weights()
        assert leader["weights"].keys() == wanted.keys()
        for key, weight in wanted.items():
            torch.testing.assert_close(leader["weights"][key], weight, rtol=1e-4, atol=1e-5)
    for mine, its in zip(told, leader["told"], strict=True):
        assert_alike(mine, its, rel=0.05 if rounded(name) else 1e-3, near=5e-4 if rounded(name) else 1e-4)
    for mine, its in zip(leader["told"], other["told"], strict=True):
        assert_alike(mine, its, rel=0.0)


def test_three_ranks_come_to_the_weights_of_one(folder: Path) -> None:
    """The width of the model is no multiple of three: their shards are of different sizes."""
    case = CASES["critic"]
    pupil, told = train(folder, case)
    leader, *others = results(folder, "three", 3)
    assert_moved_alike(leader["masters"], pupil, begin(folder, case), within=1e-5)
    for mine, its in zip(told, leader["told"], strict=True):
        assert_alike(mine, its, rel=1e-3)
    for other in others:
        for mine, its in zip(leader["told"], other["told"], strict=True):
            assert_alike(mine, its, rel=0.0)


def test_others_go_on_where_some_ranks_left_off(folder: Path) -> None:
    """One rank after two, and two after one, with the moments of policy and critic."""
    straight, start = train(folder, RESUMED)[0], begin(folder, RESUMED)
    one_more, _ = train(folder, RESUMED | {"resumes": "by two"})
    assert one_more.step == straight.step
    assert_moved_alike(masters(one_more), straight, start, within=1e-5)
    assert_moved_alike(results(folder, "two more", 2)[0]["masters"], straight, start, within=1e-5)


def results(folder: Path, name: str, count: int) -> list[Any]:
    """What a case came to on each rank."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(count)]


def rounded(name: str) -> bool:
    """Whether sums made in another order are rounded to 16 bits."""
    return name.startswith("bfloat16")


def assert_moved_alike(found: list[torch.Tensor], pupil: Pupil, start: Pupil, *, within: float) -> None:
    """That tensors lie where the pupil has come to from its start, up to a share of the way."""
    there, began = masters(pupil), masters(start)
    way = torch.cat([(to - since).flatten() for to, since in zip(there, began, strict=True)]).norm()
    off = torch.cat([(to - here).flatten() for to, here in zip(there, found, strict=True)]).norm()
    assert way > 0.01
    assert off < within * way, f"{float(off / way):.2g} of the way"


def test_each_rank_publishes_whole_tensors_of_its_own(folder: Path) -> None:
    leader, other = results(folder, "full", 2)
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


def assert_alike(mine: Any, its: Any, *, rel: float, near: float = 1e-4) -> None:
    """The same measurements, but for times and for what ranks work on for company; `near` 0, as of a loss, is near enough."""
    if isinstance(mine, str):
        assert its == mine
        return
    assert its[1] == mine[1] and its[0].keys() == mine[0].keys()
    for key, value in mine[0].items():
        if not key.endswith("_s") and "_s_" not in key and key != "padding":
            assert its[0][key] == pytest.approx(value, rel=rel, abs=near if rel else 0.0), key


def test_what_a_rank_owns_is_a_copy() -> None:
    weight = torch.ones(3)
    for by_leader in (True, False):
        owned = ALONE.owned({"a": weight}, by_leader=by_leader)
        weight.add_(1.0)
        assert owned["a"].tolist() == (weight - 1.0).tolist()
