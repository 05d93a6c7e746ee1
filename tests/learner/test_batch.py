import numpy as np
import torch

from areal.broker.trajectory import Group, TokenTrajectory
from areal.learner.batch import Batch
from areal.learner.minibatch import deal, microbatches
from areal.learner.ranks import Ranks


def answered(versions: list[int], reward: float, reason: str = "stop") -> TokenTrajectory:
    """Tokens 10, 11, …, with log-probabilities −0.10, −0.11, … where sampled."""
    tokens = np.arange(10, 10 + len(versions), dtype=np.int32)
    given = np.array(versions, np.int32)
    logprobs = np.where(given >= 0, -tokens / 100, 0).astype(np.float32)
    return TokenTrajectory(tokens, given, logprobs, reward, {}, reason)


GROUPS = [
    Group(4, (answered([-1, 3, 3], 1.0), answered([-1, -1, 2], 0.0, "length"))),
    Group(9, (answered([-1, 5, -1, 6, 6], 0.5),)),
    Group(7, (answered([-1, 1], 0.25),)),
]


def test_a_batch_laid_flat_by_hand() -> None:
    batch = Batch.of(GROUPS)
    assert batch.group_ids_S.tolist() == [0, 0, 1, 2]
    assert batch.rewards_S.tolist() == [1.0, 0.0, 0.5, 0.25]
    assert batch.bounds.tolist() == [0, 2, 3, 6, 7]
    assert batch.lengths_S.tolist() == [2, 1, 3, 1]
    assert batch.segment_ids_A.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert batch.positions_A.tolist() == [1, 2, 2, 1, 3, 4, 1]
    assert batch.versions_A.tolist() == [3, 3, 2, 5, 6, 6, 1]
    assert [round(-100 * x) for x in batch.behaviour_logprobs_A.tolist()] == [11, 12, 12, 11, 13, 14, 11]
    assert batch.truncated_S.tolist() == [False, True, False, False]
    assert batch.num_actions == 7
    assert batch.index_of([2, 0]).tolist() == [3, 4, 5, 0, 1]


def test_groups_are_dealt_in_turn_and_passes_hold_what_is_needed() -> None:
    batch = Batch.of(GROUPS)
    first, second = deal(batch, torch.tensor([True, False, True, True]), count=2, budget=100)
    assert (first.groups, second.groups) == ([0, 2], [1])
    assert [micro.index_M.tolist() for micro in first.microbatches] == [[0, 1, 6]]
    assert first.microbatches[0].packed.action_tokens.tolist() == [11, 12, 11]
    assert [micro.index_M.tolist() for micro in second.microbatches] == [[3, 4, 5]]


def test_there_are_no_more_minibatches_than_groups() -> None:
    dealt = deal(Batch.of(GROUPS[:1]), torch.tensor([False, False]), count=4, budget=100)
    assert [(minibatch.groups, minibatch.microbatches) for minibatch in dealt] == [([0], [])]


def test_passes_over_all_find_every_action_once() -> None:
    batch = Batch.of(GROUPS)
    passes = microbatches(batch, range(4), budget=5)
    assert len(passes) > 1
    assert sorted(index for micro in passes for index in micro.index_M.tolist()) == list(range(7))


def test_ranks_make_as_many_passes_and_share_the_trajectories() -> None:
    batch = Batch.of(GROUPS)  # of 3, 3, 5 and 2 tokens
    shares = [microbatches(batch, range(4), 5, Ranks(rank, 2)) for rank in range(2)]
    assert [[micro.index_M.tolist() for micro in share] for share in shares] == [[[3, 4, 5], [2]], [[0, 1], [6]]]
    assert all(micro.counts for share in shares for micro in share)


def test_a_rank_with_nothing_to_do_keeps_the_others_company() -> None:
    batch = Batch.of(GROUPS)
    (busy,), (idle,) = (microbatches(batch, [2], 100, Ranks(rank, 2)) for rank in range(2))
    assert (busy.counts, busy.index_M.tolist()) == (True, [3, 4, 5])
    assert (idle.counts, idle.packed.tokens.tolist()) == (False, [10, 11])
    assert (busy.padding, idle.padding) == (0, 2)
    assert microbatches(batch, [], 100, Ranks(1, 2)) == []


def test_pairs_of_a_group_share_a_pass_and_an_odd_one_gets_none() -> None:
    three = Group(1, tuple(answered([-1, 0], reward) for reward in (0.0, 1.0, 2.0)))
    batch = Batch.of([three, GROUPS[0], GROUPS[1]])  # groups of 3, 2 and 1
    passes = microbatches(batch, range(6), 4, pairs=True)
    assert sorted(micro.index_M.tolist() for micro in passes) == [[0, 1], [3, 4, 5]]
    both = microbatches(batch, [0, 2, 3, 4], 100, pairs=True)
    assert [(micro.index_M.tolist(), micro.packed.num_segments) for micro in both] == [([0, 2, 3, 4, 5], 4)]
    busy, idle = (microbatches(batch, [3, 4], 100, Ranks(rank, 2), pairs=True)[0] for rank in range(2))
    assert (busy.counts, idle.counts, idle.packed.num_segments) == (True, False, 2)
