"""How a run is spoken of: whether its policy writes or draws."""

from dataclasses import dataclass

from .tally import SEEN_IN_IMAGES, Record, number

SEEN = dict(zip(SEEN_IN_IMAGES, ("judge", "Fréchet", "diversity"), strict=True))
"""What an evaluation measures of images beside their reward, as people read it."""


@dataclass(frozen=True, slots=True)
class Words:
    """score: what an evaluation's mean reward is called; unit, units: what a policy is counted in."""

    score: str
    unit: str
    units: str
    draws: bool

    def answers(self, record: Record) -> str:
        """What answers are like: their length, or of an evaluation of images what is seen in them."""
        if not self.draws:
            return f"len {number(record, 'length_mean'):.1f}  truncated {number(record, 'truncated_fraction'):.0%}"
        return "  ".join(f"{name} {number(record, key):.3g}" for key, name in SEEN.items() if key in record)


TEXTS = Words(score="accuracy", unit="tok", units="tokens", draws=False)
IMAGES = Words(score="reward", unit="actions", units="actions", draws=True)
