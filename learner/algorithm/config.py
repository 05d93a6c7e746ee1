"""What can be said about the algorithm in a configuration: from rewards to the loss, each part chosen by its name.

    reward ─shaping─▶ reward ─advantage─▶ A ─┐
    π_θ, π_prox, π_behav ────behaviour──▶ w ─┼─objective─▶ a loss for each action ─aggregate─▶ the loss
                                       age ──┘ (staleness: which actions count, how far the clip lets them go)

Published algorithms are combinations: GRPO is grpo + ppo, DAPO grpo + ppo with clip_high 0.28 + token +
filters.constant: replace, Dr.GRPO dr_grpo + ppo + fixed, GSPO grpo + gspo + sequence, PPO gae + ppo + token.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from ..config import OptimizerConfig


class Part(BaseModel):
    """A part of the algorithm, whose keys are its own."""

    model_config = ConfigDict(extra="forbid")


class Ppo(Part):
    """The clipped surrogate of PPO (arXiv 1707.06347), around π_prox (decoupled PPO, arXiv 2505.24298, eq. 5)."""

    name: Literal["ppo"] = "ppo"
    clip_low: float = Field(0.2, gt=0, description="π_θ/π_prox is clipped below at 1 − this")
    clip_high: float = Field(0.2, gt=0, description="π_θ/π_prox is clipped above at 1 + this (DAPO: 0.28)")
    clip_in: Literal["ratio", "nats"] = Field(
        "ratio", description="in nats, log π_θ/π_prox is clipped to −clip_low and clip_high instead"
    )
    dual_clip: float | None = Field(
        None, gt=1, description="where A < 0 the loss is at most this times −A (arXiv 1912.09729: 3)"
    )

    @model_validator(mode="after")
    def _ratios_are_positive(self) -> "Ppo":
        if self.clip_in == "ratio" and self.clip_low > 1:
            raise ValueError(f"clip_low is {self.clip_low}, and no ratio is below 0: take at most 1, or clip_in nats")
        return self


class Gspo(Part):
    """PPO's surrogate on the ratio of whole sequences (arXiv 2507.18071)."""

    name: Literal["gspo"] = "gspo"
    clip_low: float = Field(3e-4, gt=0, le=1, description="the sequence's ratio is clipped below at 1 − this")
    clip_high: float = Field(4e-4, gt=0, description="and above at 1 + this")


class Cispo(Part):
    """Clipped importance weights that cut no gradient off (arXiv 2506.13585)."""

    name: Literal["cispo"] = "cispo"
    clip_low: float = Field(1.0, gt=0, le=1, description="the weight is clipped below at 1 − this; 1 for no bound")
    clip_high: float = Field(0.28, gt=0, description="and above at 1 + this")


class Sapo(Part):
    """A smooth gate in place of the clip (arXiv 2511.20347)."""

    name: Literal["sapo"] = "sapo"
    tau_positive: float = Field(1.0, gt=0, description="steepness of the gate where A > 0")
    tau_negative: float = Field(1.05, gt=0, description="and where A < 0")


class M2po(Part):
    """PPO's surrogate on the tokens left when those farthest off the policy are out (arXiv 2510.01161)."""

    name: Literal["m2po"] = "m2po"
    threshold: float = Field(0.04, gt=0, description="bound of the mean squared log π_prox/π_behav of what is left")
    clip_low: float = Field(0.2, gt=0, le=1)
    clip_high: float = Field(0.2, gt=0)


class Topr(Part):
    """REINFORCE where A > 0, truncated importance sampling where A < 0 (arXiv 2503.14286)."""

    name: Literal["topr"] = "topr"
    cap: float = Field(1.0, gt=0, description="of the trajectory's π_θ/π_behav where A < 0")


class TruncatedIs(Part):
    """Truncated importance sampling: −min(π_θ/π_behav, cap)·A·log π_θ, the weight without gradient."""

    name: Literal["truncated_is"] = "truncated_is"
    cap: float = Field(2.0, gt=0, description="of the token's π_θ/π_behav")


class Rebel(Part):
    """Regression of the rewards' differences on those of log-ratios, by pairs of a group (arXiv 2404.16767, eq. 4)."""

    name: Literal["rebel"] = "rebel"
    eta: float = Field(1.0, gt=0, description="how far from π_prox: 1/η weighs log-ratios against advantages")


class Reinforce(Part):
    """REINFORCE: −A·log π_θ."""

    name: Literal["reinforce"] = "reinforce"


def named(default: str) -> Discriminator:
    """Tells the parts apart by their name; one without is the default."""

    def name_of(value: Any) -> str:
        name = value.get("name", default) if isinstance(value, dict) else getattr(value, "name", default)
        return str(name)

    return Discriminator(name_of)


ObjectiveConfig = Annotated[
    Annotated[Ppo, Tag("ppo")]
    | Annotated[Gspo, Tag("gspo")]
    | Annotated[Cispo, Tag("cispo")]
    | Annotated[Sapo, Tag("sapo")]
    | Annotated[M2po, Tag("m2po")]
    | Annotated[Topr, Tag("topr")]
    | Annotated[TruncatedIs, Tag("truncated_is")]
    | Annotated[Rebel, Tag("rebel")]
    | Annotated[Reinforce, Tag("reinforce")],
    named("ppo"),
]


class Grpo(Part):
    """The reward in standard deviations of its group (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"


class DrGrpo(Part):
    """The reward less its group's mean (arXiv 2503.20783)."""

    name: Literal["dr_grpo"] = "dr_grpo"


class Rloo(Part):
    """The reward less the mean of the others in its group (arXiv 2402.14740)."""

    name: Literal["rloo"] = "rloo"


class LitePpo(Part):
    """The reward less its group's mean, in standard deviations of the batch (arXiv 2508.08221)."""

    name: Literal["lite_ppo"] = "lite_ppo"


class ReinforcePp(Part):
    """The reward, or with `group_baseline` what it exceeds its group's mean by, normalised over the batch's tokens.

    REINFORCE++ and REINFORCE++-baseline, arXiv 2501.03262.
    """

    name: Literal["reinforce_pp"] = "reinforce_pp"
    group_baseline: bool = Field(False, description="subtract the group's mean first (REINFORCE++-baseline)")


class PerPrompt(Part):
    """The reward in standard deviations of what its prompt has been paid so far (RLCM, arXiv 2404.03673)."""

    name: Literal["per_prompt"] = "per_prompt"
    memory: int = Field(64, ge=2, description="rewards remembered of a prompt")
    min_count: int = Field(16, ge=2, description="with fewer the batch's mean and deviation serve")
    prompts: int = Field(100_000, ge=1, description="prompts remembered, those of late")
    clip: float | None = Field(None, gt=0, description="advantages, to ± this (10 in RLCM's code); null for no bound")

    @model_validator(mode="after")
    def _remembers_enough(self) -> "PerPrompt":
        if self.min_count > self.memory:
            raise ValueError(f"min_count ({self.min_count}) must not exceed memory ({self.memory})")
        return self


class CriticConfig(Part):
    """A critic: a copy of the model that training began from, with a value in place of the next token's logits.

    Or, shared, a value head on the policy itself: one pass for both, and learner.optimizer's rate.
    """

    shared: bool = Field(False, description="a value head on the policy in place of a model of its own")
    coefficient: float = Field(0.1, gt=0, description="of the value loss beside the policy's, where they are shared")
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="of the critic's own model, where it has one"
    )
    clip: float = Field(0.2, gt=0, description="how far a value may move from what it was, in deviations of the return")
    normalise: bool = Field(True, description="learn returns with running mean 0 and deviation 1 (arXiv 2103.01955)")


class Gae(Part):
    """Generalised advantages of a critic (arXiv 1506.02438); shaping.turn_discount is its discount between turns."""

    name: Literal["gae"] = "gae"
    gamma: float = Field(1.0, gt=0, le=1, description="discount from token to token within a turn")
    lam: float = Field(1.0, ge=0, le=1)
    normalise: bool = Field(True, description="advantages, to mean 0 and deviation 1 over the batch's tokens")
    critic: CriticConfig = Field(default_factory=CriticConfig)


AdvantageConfig = Annotated[
    Annotated[Grpo, Tag("grpo")]
    | Annotated[DrGrpo, Tag("dr_grpo")]
    | Annotated[Rloo, Tag("rloo")]
    | Annotated[LitePpo, Tag("lite_ppo")]
    | Annotated[ReinforcePp, Tag("reinforce_pp")]
    | Annotated[PerPrompt, Tag("per_prompt")]
    | Annotated[Gae, Tag("gae")],
    named("grpo"),
]


class BehaviourConfig(Part):
    """What becomes of w = π_prox/π_behav, which corrects for the policy that sampled. It is applied unless it is off."""

    action: Literal["truncate", "mask", "off"] = Field(
        "truncate", description="at `high` (TIS); or to leave out what lies outside `low` to `high` (MIS, IcePop)"
    )
    level: Literal["token", "sequence", "geometric", "mean"] = Field(
        "token", description="of each token, or of its trajectory: the product, the geometric or the arithmetic mean"
    )
    low: float = Field(0.5, ge=0, description="of a mask")
    high: float = Field(5.0, gt=0, allow_inf_nan=False)
    cap: float | None = Field(
        5.0, gt=0, allow_inf_nan=False, description="of a token's own w where trajectories are masked; null for none"
    )

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: Any) -> Any:
        """YAML reads a bare off as false."""
        return "off" if given is False else given

    @model_validator(mode="after")
    def _low_is_low(self) -> "BehaviourConfig":
        if self.action == "mask" and self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class KlConfig(Part):
    """Divergence from a reference: the policy that training began from (with LoRA, the model without its adapter)."""

    coefficient: float = Field(0.0, ge=0, description="β; 0 for none, and no reference is loaded")
    estimator: Literal["k1", "k2", "k3", "exact"] = Field(
        "k3", description="http://joschu.net/blog/kl-approx.html; exact, in closed form, for image policies"
    )
    where: Literal["loss", "reward"] = Field("loss", description="added to the loss, or taken off the reward")

    @model_validator(mode="after")
    def _pulls(self) -> "KlConfig":
        if self.coefficient > 0 and self.estimator == "k1" and self.where == "loss":
            raise ValueError("k1 has no gradient on average and is for the reward; take k2 or k3 in the loss")
        if self.estimator == "exact" and self.where == "reward":
            raise ValueError("exact has a gradient and is for the loss; take k1 for the reward")
        return self

    @property
    def needs_scorer(self) -> bool:
        """Whether log-probabilities of the reference are wanted; an exact divergence comes with the pass itself."""
        return self.coefficient > 0 and self.estimator != "exact"


class Overlong(Part):
    """DAPO's penalty of answers that come near their greatest length (arXiv 2503.14476, eq. 13)."""

    max_length: int | None = Field(None, ge=1, description="tokens; rollout.sampling.max_tokens unless it is given")
    buffer: int = Field(ge=1, description="how many tokens before it the penalty begins")
    factor: float = Field(1.0, gt=0, description="the penalty at max_length")


class ShapingConfig(Part):
    """The reward that is learned from: (reward + bias)·scale, clipped, less penalties. Metrics show the reward itself."""

    scale: float = Field(1.0)
    bias: float = Field(0.0)
    clip: float | None = Field(None, gt=0, description="to ± this, after scale and bias")
    overlong: Overlong | None = Field(None)
    turn_discount: float = Field(1.0, gt=0, le=1, description="of a turn against the next, where an answer has several")


class SolvedConfig(Part):
    """Rows that are always or never answered rightly are not issued; what is known of a row is kept over epochs."""

    right_at: float = Field(1.0, description="an answer is right from this reward on")
    min_answers: int = Field(16, ge=1, description="to a row, before it is decided on")
    never_below: float = Field(0.0, ge=0, le=1, description="a share of right answers up to this is never")
    always_above: float = Field(1.0, ge=0, le=1, description="and from this on always")
    retry_epochs: int = Field(4, ge=0, description="epochs until such a row is tried again; 0 for never")


class FiltersConfig(Part):
    """Which groups and answers are learned from."""

    constant: Literal["count", "replace"] = Field(
        "count",
        description="groups whose rewards are all equal, shaped: count them in the loss, with advantage 0; or take others "
        "in their place (dynamic sampling, DAPO)",
    )
    max_replaced: int = Field(
        8, ge=1, description="batches' worth of groups that replace turns away in a step before it takes what comes"
    )
    truncated: Literal["keep", "mask"] = Field("keep", description="answers cut off at max_tokens")
    solved: SolvedConfig | None = Field(None, description="pass over rows that are always or never answered rightly")


class AlgorithmConfig(Part):
    """From rewards to the loss."""

    advantage: AdvantageConfig = Field(default_factory=Grpo)
    objective: ObjectiveConfig = Field(default_factory=Ppo)
    aggregate: Literal["token", "sequence", "group", "fixed"] = Field(
        "token",
        description="the loss is the mean over actions; over trajectories (or groups) of their means; or the sum over "
        "trajectories times fixed_length (Dr.GRPO)",
    )
    fixed_length: int | None = Field(
        None, ge=1, description="what aggregate: fixed divides by; rollout.sampling.max_tokens unless it is given"
    )
    proximal: Literal["auto", "recompute", "interpolate", "current", "behaviour"] = Field(
        "auto",
        description="π_prox: by a pass before the step; between π_behav and π_θ by version (arXiv 2512.06547); π_θ "
        "itself; or π_behav, as in PPO that is not decoupled. auto is current with one minibatch, else recompute",
    )
    behaviour: BehaviourConfig = Field(default_factory=BehaviourConfig)
    kl: KlConfig = Field(default_factory=KlConfig)
    shaping: ShapingConfig = Field(default_factory=ShapingConfig)
    filters: FiltersConfig = Field(default_factory=FiltersConfig)

    def with_lengths(self, max_tokens: int) -> "AlgorithmConfig":
        """The same with the lengths that were left out, where an answer has up to `max_tokens` of them."""
        shaping, overlong = self.shaping, self.shaping.overlong
        if overlong is not None:
            overlong = overlong.model_copy(update={"max_length": overlong.max_length or max_tokens})
        update = {
            "fixed_length": self.fixed_length or max_tokens,
            "shaping": shaping.model_copy(update={"overlong": overlong}),
        }
        return self.model_copy(update=update)

    @property
    def compares(self) -> bool:
        """Whether a group of one teaches nothing: its answers are measured against each other."""
        baseline = isinstance(self.advantage, ReinforcePp) and self.advantage.group_baseline
        return (
            baseline
            or isinstance(self.advantage, Grpo | DrGrpo | Rloo | LitePpo)
            or isinstance(self.objective, Rebel)
            or self.filters.constant == "replace"
        )

    @model_validator(mode="after")
    def _corrects_once(self) -> "AlgorithmConfig":
        if self.behaviour.action == "off" or not isinstance(self.objective, Topr | TruncatedIs | Rebel):
            return self
        why = (
            "is a regression, which holds whatever policy sampled"
            if isinstance(self.objective, Rebel)
            else "corrects for the policy that sampled by itself"
        )
        raise ValueError(f"{self.objective.name} {why}; set behaviour.action to off")

    @model_validator(mode="after")
    def _knows_what_is_far(self) -> "AlgorithmConfig":
        if isinstance(self.objective, M2po) and self.proximal not in ("auto", "recompute"):
            raise ValueError(f"m2po takes a pass of its own for π_prox; set proximal to recompute, not {self.proximal}")
        return self
