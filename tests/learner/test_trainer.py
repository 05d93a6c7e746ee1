import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from areal.broker.errors import TrainingError
from areal.broker.trajectory import NOT_AN_ACTION, Group, TokenTrajectory
from areal.learner.algorithm.config import AlgorithmConfig, Gae
from areal.learner.config import LearnerConfig, ModelConfig, StalenessConfig
from areal.learner.critic import Critic, OwnCritic, SharedCritic
from areal.learner.estimate import Estimator
from areal.learner.optimizer import Optimizer
from areal.learner.packing import pack
from areal.learner.plan import Recipe
from areal.learner.ranks import ALONE, Ranks
from areal.learner.reference import reference_of
from areal.learner.token_policy import TokenPolicy
from areal.learner.trainer import Trainer

VOCAB = 24


def save_tiny_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def made(
    folder: Path,
    *,
    staleness: Mapping[str, Any] = MappingProxyType({}),
    algorithm: Mapping[str, Any] = MappingProxyType({}),
    ranks: Ranks = ALONE,
    **options: Any,
) -> tuple[TokenPolicy, Trainer]:
    learner = LearnerConfig(**{"steps": 50, "groups_per_step": 4, "optimizer": {"lr": 0.01}} | options)
    recipe = Recipe(learner, AlgorithmConfig.model_validate(algorithm), StalenessConfig(**staleness), temperature=1.0)
    model = ModelConfig(path=str(folder))
    advantage, critic = recipe.algorithm.advantage, None
    shared = isinstance(advantage, Gae) and advantage.critic.shared
    policy = TokenPolicy(folder, model, with_values=shared)
    optimizer = Optimizer(policy.parameters(), learner.optimizer, total_steps=learner.steps)
    estimator = Estimator(recipe.algorithm, identity=lambda position: position)
    reference = reference_of(policy, model) if recipe.algorithm.kl.coefficient else None
    if isinstance(advantage, Gae):
        critic = critic_of(advantage, model, policy, learner.steps)
    return policy, Trainer(policy, optimizer, estimator, recipe, reference=reference, critic=critic, ranks=ranks)


def critic_of(advantage: Gae, model: ModelConfig, policy: TokenPolicy, steps: int) -> Critic:
    if advantage.critic.shared:
        return SharedCritic(advantage.critic, policy)
    return OwnCritic(advantage.critic, model, total_steps=steps)


def answered_with(tokens: list[int], given: int) -> TokenTrajectory:
    versions = np.array([NOT_AN_ACTION] * given + [0] * (len(tokens) - given), np.int32)
    return TokenTrajectory(np.array(tokens, np.int32), versions, np.zeros(len(tokens), np.float32), 0.0)


def answered(policy: TokenPolicy, tokens: list[int], given: int, reward: float, version: int = 0) -> TokenTrajectory:
    """The trajectory as an engine with this policy's weights would report it."""
    versions = np.array([NOT_AN_ACTION] * given + [version] * (len(tokens) - given), np.int32)
    blank = TokenTrajectory(np.array(tokens, np.int32), versions, np.zeros(len(tokens), np.float32), 0.0)
    with torch.no_grad():
        logprobs = policy.logprobs(pack([blank])).numpy()
    filled = np.zeros(len(tokens), np.float32)
    filled[given:] = logprobs
    return TokenTrajectory(blank.tokens, versions, filled, reward, {"bandit": reward})


def batch(policy: TokenPolicy, seed: int = 0, version: int = 0, *, flat: bool = False) -> list[Group]:
    """Four groups of four answers to random prompts; the reward is for even tokens."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(4):
        prompt = rng.integers(0, VOCAB, 3).tolist()
        answers = [prompt + rng.integers(0, VOCAB, rng.integers(1, 9)).tolist() for _ in range(4)]
        rewards = [1.0 if flat else float(np.mean([t % 2 == 0 for t in a[3:]])) for a in answers]
        rewards[0] += 0.0 if flat else 0.5
        groups.append(
            Group(
                number,
                tuple(answered(policy, a, 3, r, version) for a, r in zip(answers, rewards, strict=True)),
            )
        )
    return groups


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_groups_without_variance_leave_the_weights_alone(folder: Path) -> None:
    policy, trainer = made(folder)
    before = ALONE.owned(policy.weights())
    measured = trainer.step(batch(policy, flat=True), step=0, version=0).measured
    assert same(policy.weights(), before)
    assert (measured["groups_without_variance"], measured["groups"]) == (4, 4)
    assert (measured["grad_norm"], measured["loss"], measured["reward_mean"]) == (0.0, 0.0, 1.0)


def test_groups_without_variance_count_in_the_mean(folder: Path) -> None:
    gradients = []
    for extra in (False, True):
        policy, trainer = made(folder)
        groups = batch(policy)
        actions = sum(t.num_actions for g in groups for t in g.trajectories)
        flat = batch(policy, flat=True) if extra else []
        more = sum(t.num_actions for g in flat for t in g.trajectories)
        gradients.append(trainer.step(groups + flat, step=0, version=0).measured["grad_norm"] * (actions + more))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


@pytest.mark.parametrize("tokens_per_microbatch", [1, 40])
def test_the_token_budget_does_not_change_the_step(folder: Path, tokens_per_microbatch: int) -> None:
    results = []
    for budget in (tokens_per_microbatch, 10_000):
        policy, trainer = made(folder, tokens_per_microbatch=budget, optimizer={"lr": 1e-3, "eps": 1e-3})
        measured = trainer.step(batch(policy), step=0, version=0).measured
        results.append((ALONE.owned(policy.weights()), measured))
    for name, weight in results[0][0].items():
        torch.testing.assert_close(weight, results[1][0][name], rtol=1e-4, atol=1e-6)
    for name, value in results[0][1].items():
        if name.endswith("_s") or "_s_" in name:  # seconds
            continue
        assert value == pytest.approx(results[1][1][name], rel=1e-3, abs=1e-5), name


def test_the_first_update_is_on_policy(folder: Path) -> None:
    policy, trainer = made(folder)
    measured = trainer.step(batch(policy, version=2), step=0, version=5).measured
    assert measured["behaviour_weight_mean"] == pytest.approx(1.0, abs=1e-4)
    assert measured["behaviour_ess"] == pytest.approx(1.0, abs=1e-4)
    assert measured["clipped_fraction"] == measured["limited_fraction"] == 0.0
    assert (measured["staleness_mean"], measured["staleness_max"]) == (3.0, 3)
    assert 0 < measured["entropy"] <= np.log(VOCAB) + 1e-4


def test_several_minibatches_move_away_from_the_proximal_policy(folder: Path) -> None:
    policy, trainer = made(folder, minibatches=4)
    before = ALONE.owned(policy.weights())
    measured = trainer.step(batch(policy), step=0, version=0).measured
    assert measured["kl_prox_current"] > 1e-5
    assert measured["behaviour_weight_mean"] == pytest.approx(1.0, abs=1e-4)
    assert not same(policy.weights(), before)
    _, once = made(folder)
    assert once.step(batch(policy), step=0, version=0).measured["kl_prox_current"] == pytest.approx(0.0, abs=1e-9)


def test_tokens_that_are_too_old_are_left_out_and_counted(folder: Path) -> None:
    policy, trainer = made(folder, staleness={"max": 1})
    before = ALONE.owned(policy.weights())
    groups = batch(policy, version=3)
    actions = sum(t.num_actions for g in groups for t in g.trajectories)
    measured = trainer.step(groups, step=0, version=5).measured
    assert measured["tokens_too_old"] == actions
    assert (measured["staleness_max"], measured["staleness_mean"], measured["grad_norm"]) == (2, 0.0, 0.0)
    assert same(policy.weights(), before)
    mixed = [*groups[:2], *batch(policy, seed=1, version=4)[2:]]
    young = sum(t.num_actions for g in mixed[2:] for t in g.trajectories)
    measured = trainer.step(mixed, step=0, version=5).measured
    old = sum(t.num_actions for g in mixed[:2] for t in g.trajectories)
    assert (measured["tokens_too_old"], measured["tokens_trained"]) == (old, young)
    assert (measured["staleness_mean"], measured["staleness_max"]) == (1.0, 2)
    assert young > 0 and not same(policy.weights(), before)


def test_after_a_resume_tokens_keep_the_age_they_had(folder: Path) -> None:
    """A learner that had published up to 5 resumes from the checkpoint of version 2, which it publishes as 6."""
    policy, trainer = made(folder, staleness={"max": 1})
    trainer.resume(version=6, gap=4)
    measured: dict[tuple[int, int], tuple[float, ...]] = {}
    for sampled, taken in ((2, 6), (1, 6), (0, 6), (5, 9), (4, 9), (3, 9), (6, 6), (6, 7), (7, 9)):
        result = trainer.step(batch(policy, version=sampled), step=0, version=taken).measured
        measured[sampled, taken] = (result["staleness_max"], result["staleness_mean"], result["tokens_too_old"])
    every = sum(t.num_actions for g in batch(policy) for t in g.trajectories)
    assert measured == {
        (2, 6): (0, 0.0, 0),  # sampled by the weights that are now called 6
        (1, 6): (1, 1.0, 0),  # one step before
        (0, 6): (2, 0.0, every),
        (5, 9): (0, 0.0, 0),  # by the lost version 5, three steps after 2, as 9 is after 6
        (4, 9): (1, 1.0, 0),
        (3, 9): (2, 0.0, every),
        (6, 6): (0, 0.0, 0),  # from 6 on, versions are what they say
        (6, 7): (1, 1.0, 0),
        (7, 9): (2, 0.0, every),
    }


def test_after_a_second_resume_tokens_keep_the_age_they_had(folder: Path) -> None:
    """2 was published as 6; what became of it is 8 in a checkpoint, got as far as 10, and is published as 11."""
    policy, trainer = made(folder, staleness={"max": 4})
    trainer.resume(version=6, gap=4)
    trainer.resume(version=11, gap=3)
    ages = {}
    for sampled in (2, 3, 4, 6, 8, 11):
        result = trainer.step(batch(policy, version=sampled), step=0, version=11).measured
        ages[sampled] = (result["staleness_max"], result["staleness_mean"], result["tokens_too_old"])
    assert ages == {
        2: (2, 2.0, 0),  # 2 is 6, and 6 is two steps before 8, which is 11
        3: (1, 1.0, 0),
        4: (0, 0.0, 0),
        6: (2, 2.0, 0),
        8: (0, 0.0, 0),
        11: (0, 0.0, 0),
    }


def test_of_a_batch_from_before_and_after_a_resume_the_young_tokens_are_trained_on(folder: Path) -> None:
    policy, trainer = made(folder, staleness={"max": 1})
    trainer.resume(version=6, gap=4)
    before = batch(policy, seed=0, version=2)[:2]  # of age 1 at version 7
    after = batch(policy, seed=1, version=6)[2:3]  # of age 1, too
    lost = batch(policy, seed=2, version=1)[3:]  # of age 2
    actions = [sum(t.num_actions for g in groups for t in g.trajectories) for groups in (before, after, lost)]
    measured = trainer.step([*before, *after, *lost], step=0, version=7).measured
    assert measured["tokens_trained"] == actions[0] + actions[1] and measured["tokens_too_old"] == actions[2]
    assert (measured["staleness_mean"], measured["staleness_max"]) == (1.0, 2)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(folder: Path) -> None:
    policy, trainer = made(folder)
    groups = batch(policy)
    head = next(parameter for parameter in policy.parameters())
    with torch.no_grad():
        head.fill_(float("nan"))
    others = {name: weight for name, weight in ALONE.owned(policy.weights()).items() if weight.isfinite().all()}
    with pytest.raises(TrainingError, match="the loss is nan; this update is not made"):
        trainer.step(groups, step=7, version=0)
    assert same(others, policy.weights())


def test_the_reward_of_a_bandit_rises(folder: Path) -> None:
    """One token is rewarded; sampled from the policy itself, it becomes the likely one."""
    policy, trainer = made(folder, optimizer={"lr": 0.02})
    torch.manual_seed(0)
    every_token = [
        TokenTrajectory(
            np.array([1, 2, 3, token], np.int32), np.array([-1, -1, -1, 0], np.int32), np.zeros(4, np.float32), 0.0
        )
        for token in range(VOCAB)
    ]
    rewards = []
    for step in range(12):
        with torch.no_grad():
            probabilities = policy.logprobs(pack(every_token)).exp()
        groups = []
        for number in range(4):
            tokens = torch.multinomial(probabilities, 8, replacement=True).tolist()
            answers = [answered(policy, [1, 2, 3, token], 3, float(token < 6), step) for token in tokens]
            groups.append(Group(4 * step + number, tuple(answers)))
        rewards.append(trainer.step(groups, step=step, version=step).measured["reward_mean"])
    assert np.mean(rewards[:2]) < 0.5
    assert np.mean(rewards[-3:]) > 0.85


def off_policy(groups: list[Group], seed: int) -> list[Group]:
    """The same groups as if sampled by several versions up to 3, each some way off the policy."""
    rng = np.random.default_rng(seed)
    for trajectory in (t for group in groups for t in group.trajectories):
        trajectory.behaviour_logprobs[3:] += rng.normal(0, 0.4, trajectory.num_actions).astype(np.float32)
        trajectory.versions[3:] = rng.integers(0, 4, trajectory.num_actions)
    return groups


def weights_after(folder: Path, steps: int = 1, **options: Any) -> dict[str, torch.Tensor]:
    """After steps on groups of other policies, which bring masks, caps, budgets and laws into play."""
    far = {"max": 3, "kl_budget": 0.5, "clip_law": "sqrt"}
    policy, trainer = made(folder, **{"optimizer": {"lr": 1e-3, "eps": 1e-3}, "staleness": far} | options)
    for step in range(steps):
        trainer.step(off_policy(batch(policy, seed=step), step), step=step, version=4)
    return ALONE.owned(policy.weights())


@pytest.mark.parametrize(
    "algorithm",
    [
        {"advantage": {"name": "dr_grpo"}, "aggregate": "fixed", "fixed_length": 8},
        {"advantage": {"name": "rloo"}, "objective": {"name": "reinforce"}, "aggregate": "sequence"},
        {"advantage": {"name": "lite_ppo"}, "aggregate": "group"},
        {"advantage": {"name": "reinforce_pp", "group_baseline": True}, "objective": {"dual_clip": 3.0}},
        {"advantage": {"name": "reinforce_pp"}, "kl": {"coefficient": 0.1, "estimator": "k1", "where": "reward"}},
        {"advantage": {"name": "per_prompt", "min_count": 2}},
        {"advantage": {"name": "gae", "lam": 0.95}},
        {"objective": {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2}, "aggregate": "sequence"},
        {
            "objective": {"name": "cispo"},
            "behaviour": {"action": "mask", "level": "geometric", "low": 0.9, "high": 1.1},
        },
        {"objective": {"name": "sapo"}, "shaping": {"scale": 2.0, "overlong": {"max_length": 8, "buffer": 4}}},
        {"objective": {"name": "m2po"}, "shaping": {"turn_discount": 0.9}},
        {"objective": {"name": "topr"}, "behaviour": {"action": "off"}},
        {"objective": {"name": "truncated_is"}, "behaviour": {"action": "off"}},
        {"proximal": "interpolate", "kl": {"coefficient": 0.05, "estimator": "k2"}},
    ],
    ids=lambda algorithm: "-".join(
        str(part.get("name", key)) if isinstance(part, dict) else f"{part}" for key, part in algorithm.items()
    ),
)
def test_every_algorithm_learns_the_same_however_it_is_packed(folder: Path, algorithm: dict[str, Any]) -> None:
    before = ALONE.owned(made(folder)[0].weights())
    in_one, in_many = (
        weights_after(folder, 2, algorithm=algorithm, minibatches=2, tokens_per_microbatch=budget)
        for budget in (10_000, 12)
    )
    assert not same(in_one, before)
    for name, weight in in_one.items():
        torch.testing.assert_close(weight, in_many[name], rtol=1e-3, atol=2e-6)


def test_current_and_interpolated_proximal_policies_agree_on_the_first_update(folder: Path) -> None:
    """Nothing has moved yet: the proximal policy is the current one, whatever it is made of."""
    first = weights_after(folder, algorithm={"proximal": "current"})
    for proximal in ("recompute", "interpolate"):
        other = weights_after(folder, algorithm={"proximal": proximal})
        for name, weight in first.items():
            torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-6)


def test_ppo_that_is_not_decoupled_is_centred_on_what_sampled(folder: Path) -> None:
    """Then w is 1, and the ratio to the centre is what w was."""
    options = {"objective": {"clip_low": 0.99, "clip_high": 99.0}, "behaviour": {"high": 100.0}}
    decoupled, centred = (
        made(folder, algorithm=options | {"proximal": proximal}) for proximal in ("current", "behaviour")
    )
    groups = off_policy(batch(decoupled[0]), seed=1)
    of_decoupled = decoupled[1].step(groups, step=0, version=0).measured
    of_centred = centred[1].step(groups, step=0, version=0).measured
    assert of_decoupled["behaviour_weight_mean"] != pytest.approx(1.0, abs=1e-3)
    assert of_centred["behaviour_weight_mean"] == 1.0
    assert of_centred["kl_prox_current"] == pytest.approx(of_decoupled["kl_behaviour_prox"], rel=1e-4)
    assert of_centred["loss"] == pytest.approx(of_decoupled["loss"], rel=1e-4)


def mixed_in_age(policy: TokenPolicy) -> list[Group]:
    """The first trajectory of each group is of versions 2 and 4, the rest of version 4."""
    groups = batch(policy, version=4)
    for group in groups:
        group.trajectories[0].versions[3] = 2
    return groups


@pytest.mark.parametrize("rule", ["keep", "mask", "drop"])
def test_what_is_too_old_is_kept_masked_or_dropped_by_the_trajectory(folder: Path, rule: str) -> None:
    policy, trainer = made(folder, staleness={"max": 1, "rule": rule})
    groups = mixed_in_age(policy)
    every = sum(t.num_actions for g in groups for t in g.trajectories)
    first = sum(g.trajectories[0].num_actions for g in groups)
    measured = trainer.step(groups, step=0, version=5).measured
    assert measured["tokens_trained"] == every - {"keep": 0, "mask": 4, "drop": first}[rule]
    assert (measured["tokens_too_old"], measured["staleness_max"]) == (4, 3)


def test_answers_that_were_cut_off_can_be_left_out(folder: Path) -> None:
    policy, trainer = made(folder, algorithm={"filters": {"truncated": "mask"}})
    groups = batch(policy)
    object.__setattr__(groups[1].trajectories[2], "finish_reason", "length")
    every = sum(t.num_actions for g in groups for t in g.trajectories)
    measured = trainer.step(groups, step=0, version=0).measured
    assert measured["tokens_trained"] == every - groups[1].trajectories[2].num_actions
    assert measured["truncated_fraction"] == 1 / 16


def test_a_kl_term_learns_from_groups_without_variance(folder: Path) -> None:
    """The policy has been moved away from the reference; without an advantage only the KL term brings it back."""
    policy, trainer = made(folder, algorithm={"kl": {"coefficient": 1.0, "estimator": "k2"}})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    distances = [
        trainer.step(batch(policy, flat=True), step=step, version=0).measured["kl_reference"] for step in range(8)
    ]
    assert distances[0] > 0.001 and distances[-1] < 0.5 * distances[0]


def test_the_distance_to_the_reference_is_measured_wherever_the_kl_term_stands(folder: Path) -> None:
    distances = []
    for where in ("loss", "reward"):
        kl = {"coefficient": 1e-6, "estimator": "k2", "where": where}
        policy, trainer = made(folder, algorithm={"kl": kl})
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        distances.append(trainer.step(batch(policy), step=0, version=0).measured["kl_reference"])
    assert distances[0] == pytest.approx(distances[1], rel=1e-4) and distances[0] > 0.001


def test_a_minibatch_that_is_not_finite_is_refused_and_the_others_are_learned_from(folder: Path) -> None:
    policy, trainer = made(folder, minibatches=2)
    groups, before = batch(policy), ALONE.owned(policy.weights())
    groups[1].trajectories[0].behaviour_logprobs[-1] = np.nan
    taken = trainer.step(groups, step=3, version=0)
    assert taken.refused.keys() == {1, 3}
    assert "the loss is nan; this update is not made" in taken.refused[1]
    assert not same(policy.weights(), before)
    assert all(weight.isfinite().all() for weight in policy.weights().values())
    only_half, half = made(folder)
    alone = half.step([groups[0], groups[2]], step=3, version=0)
    assert taken.measured["loss"] == pytest.approx(alone.measured["loss"], rel=1e-4) != 0
    for name, weight in policy.weights().items():
        torch.testing.assert_close(weight, only_half.weights()[name], rtol=1e-4, atol=1e-5)


def test_m2po_leaves_out_the_same_tokens_whether_or_not_others_teach_nothing(folder: Path) -> None:
    trained = []
    for extra in (False, True):
        policy, trainer = made(folder, algorithm={"objective": {"name": "m2po", "threshold": 0.02}})
        groups, flat = batch(policy), batch(policy, seed=1, flat=True) if extra else []
        for number, trajectory in enumerate(t for group in groups for t in group.trajectories):
            trajectory.behaviour_logprobs[3:] -= 0.05 * (number % 8)
        actions = [sum(t.num_actions for g in part for t in g.trajectories) for part in (groups, flat)]
        trained.append(trainer.step([*groups, *flat], step=0, version=0).measured["tokens_trained"] - actions[1])
    assert trained[0] == trained[1] < actions[0]


def test_what_m2po_leaves_out_is_masked(folder: Path) -> None:
    """Half of the trajectories are 0.3 off, squared 0.09: of a mean of 0.045 and a bound of 0.04 some must go."""
    policy, trainer = made(folder, algorithm={"objective": {"name": "m2po", "threshold": 0.04}})
    groups = batch(policy)
    for trajectory in (t for group in groups for t in group.trajectories[::2]):
        trajectory.behaviour_logprobs[3:] -= 0.3
    num_actions = sum(t.num_actions for group in groups for t in group.trajectories)
    measured = trainer.step(groups, step=0, version=0).measured
    assert 0 < measured["tokens_trained"] < num_actions
    assert measured["masked_fraction"] == pytest.approx(1 - measured["tokens_trained"] / num_actions)


def test_what_is_over_the_budget_is_masked(folder: Path) -> None:
    """Of each group one trajectory is 1 off at each token, which spends e − 2 = 0.72 nats a token."""
    policy, trainer = made(folder, staleness={"kl_budget": 0.5})
    groups = batch(policy)
    for group in groups:
        group.trajectories[0].behaviour_logprobs[3:] -= 1.0
    actions = [sum(t.num_actions for g in groups for t in g.trajectories[:end]) for end in (1, 4)]
    measured = trainer.step(groups, step=0, version=0).measured
    assert measured["masked_fraction"] == pytest.approx(actions[0] / actions[1])


@pytest.mark.parametrize("fails", ["policy", "critic"])
def test_policy_and_critic_are_updated_both_or_neither(folder: Path, fails: str) -> None:
    policy, trainer = made(folder, algorithm={"advantage": {"name": "gae"}})
    critic = trainer._critic
    assert critic is not None
    broken = policy.parameters() if fails == "policy" else critic._module.head.parameters()
    next(iter(broken)).register_hook(lambda gradient: gradient * math.inf)
    before = ALONE.owned(policy.weights()), ALONE.owned(critic._module.state_dict())
    with pytest.raises(TrainingError, match=r"the gradient's norm is (nan|inf)"):
        trainer.step(batch(policy), step=0, version=0)
    assert same(before[0], policy.weights()) and same(before[1], critic._module.state_dict())


def test_a_critic_that_is_not_finite_stops_the_step(folder: Path) -> None:
    policy, trainer = made(folder, algorithm={"advantage": {"name": "gae"}})
    before, critic = ALONE.owned(policy.weights()), trainer._critic
    assert critic is not None
    with torch.no_grad():
        critic._module.head.weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match="the critic's values are not finite"):
        trainer.step(batch(policy), step=0, version=0)
    assert same(policy.weights(), before)
    scale = critic.scale.state()
    assert all(np.isfinite(value) for value in scale.values())


@pytest.mark.parametrize("advantage", [{"name": "per_prompt", "min_count": 2}, {"name": "gae"}])
def test_a_batch_that_is_refused_whole_leaves_no_trace(folder: Path, advantage: dict[str, Any]) -> None:
    """Not in the weights, the critic's or the statistics: what comes after makes of them what it would have made."""
    ended = []
    for spoilt in (False, True):
        policy, trainer = made(folder, algorithm={"advantage": advantage})
        trainer.step(batch(policy), step=0, version=0)
        if spoilt:
            groups = batch(policy, seed=1)
            groups[1].trajectories[0].behaviour_logprobs[-1] = np.nan
            with pytest.raises(TrainingError, match="the loss is nan"):
                trainer.step(groups, step=1, version=1)
        trainer.step(batch(policy, seed=2), step=1, version=1)
        trainer.step(batch(policy, seed=3), step=2, version=2)
        ended.append(ALONE.owned(policy.weights()))
    assert same(*ended)


@pytest.mark.parametrize(
    ("critic", "lr"),
    [({"optimizer": {"lr": 3e-3}}, 1e-6), ({"shared": True, "coefficient": 1.0}, 1e-2)],
    ids=["own", "shared"],
)
def test_a_critic_learns_what_answers_are_worth(folder: Path, critic: dict[str, Any], lr: float) -> None:
    """The same batch again and again: the value loss falls."""
    algorithm = {"advantage": {"name": "gae", "critic": critic | {"clip": 10.0}}}
    policy, trainer = made(folder, algorithm=algorithm, optimizer={"lr": lr})
    groups = batch(policy)
    losses = [trainer.step(groups, step=step, version=0).measured["value_loss"] for step in range(25)]
    assert losses[-1] < 0.5 * losses[1]


def test_the_value_head_of_a_policy_learns_beside_it(folder: Path) -> None:
    """V is 0 at first, so the bias of its head has the gradient c·mean(V − R) = −c·mean(R) over the actions, and the
    trunk none from it: its weights come to what they come to under a critic of its own."""
    ended, gradients = [], []
    for shared in (True, False):
        critic = {"shared": shared, "coefficient": 0.3, "normalise": False, "clip": 10.0}
        policy, trainer = made(
            folder, algorithm={"advantage": {"name": "gae", "critic": critic}}, optimizer={"max_grad_norm": 1e6}
        )
        if shared:
            head = policy._packed_lm.value_head
            assert head is not None and "value_head.bias" not in policy.weights()
            head.bias.register_hook(lambda gradient: gradients.append(gradient.item()))
        groups = batch(policy)
        measured = trainer.step(groups, step=0, version=0).measured
        ended.append((ALONE.owned(policy.weights()), measured["value_loss"]))
    pairs = [(t.num_actions, t.reward) for group in groups for t in group.trajectories]
    num_actions = sum(number for number, _ in pairs)
    mean = sum(number * reward for number, reward in pairs) / num_actions
    assert gradients == [pytest.approx(-0.3 * mean, rel=1e-4)]
    half_square = sum(number * reward**2 for number, reward in pairs) / num_actions / 2
    assert ended[0][1] == pytest.approx(half_square, rel=1e-4) and ended[1][1] == pytest.approx(half_square, rel=1e-4)
    for name, weight in ended[0][0].items():
        torch.testing.assert_close(weight, ended[1][0][name], rtol=1e-5, atol=1e-6)


def test_what_a_step_measures_is_known_by_name(folder: Path) -> None:
    policy, trainer = made(folder, minibatches=2)
    groups = [Group(g.prompt_id, g.trajectories, "w", time.time() - 10, time.time() - 4) for g in batch(policy)]
    measured = trainer.step(groups, step=0, version=3).measured
    assert measured["age_s_mean"] == pytest.approx(10, abs=2) and measured["queue_s_mean"] == pytest.approx(4, abs=2)
    assert measured["padding"] == 0
    assert measured["staleness_p95"] == measured["staleness_mean"] == 3
    assert {"prox_s", "forward_backward_s", "optimizer_s"} <= measured.keys()
    assert all(np.isfinite(value) for value in measured.values())


class Apart(Ranks):
    """A rank that others are thought of beside, and sums nothing with them."""

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        return values


@pytest.mark.parametrize(("rank", "passes_for_company"), [(0, 0), (1, 1)])
def test_what_a_rank_works_on_for_company_is_padding(folder: Path, rank: int, passes_for_company: int) -> None:
    """Three answers are a pass each, of which two ranks make two each."""
    policy, trainer = made(folder, ranks=Apart(rank, 2), tokens_per_microbatch=1)
    group = batch(policy)[0]
    answers = group.trajectories[:3]
    measured = trainer.step([Group(0, answers)], step=0, version=0).measured
    assert measured["padding"] == passes_for_company * min(len(answer.tokens) for answer in answers)
