"""The last number of a text: the reward of `arithmetic`."""

from ...broker.errors import RewardError
from .numerals import last_number


def arithmetic(completion: str, answer: str | float) -> float:
    """1.0 if the last number in the completion equals `answer`, else 0.0 (also if there is no number).

    "3 + 4 is 7." earns 1.0 for the answer 7, and so does "7.0"; the words around a number do not matter. Fractions,
    powers and units are not understood: the last number of "1/2" is 2, that of "5e3" is 3.
    """
    wanted = last_number(str(answer))
    if wanted is None:
        raise RewardError(
            f"the answer {answer!r:.200} of a row holds no number: wanted is 7, or a text that ends with it"
        )
    return float(last_number(completion) == wanted)
