"""Whether a text is the answer, but for how it is written."""

import re
import unicodedata
from collections.abc import Sequence

from .final_answer import last_between

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", "!\"'()*,-.:;?[]_`{}")
"""Of sentences, quotations and emphasis; others are symbols that mean something: C++, AT&T, 50%."""
_SENTENCE_END = " .,;:!?"


def exact_match(
    completion: str,
    answer: str | float | Sequence[str | float],
    *,
    within: Sequence[str] | None = None,
    ignore_case: bool = True,
    ignore_punctuation: bool = True,
    ignore_articles: bool = False,
) -> float:
    """1.0 if the completion equals `answer`, or one of several, after normalisation; else 0.0.

    White space at the ends is dropped and any other run of it is one space; Unicode is in its compatible form (NFKC: "ﬁ" is
    "fi"). Case and the punctuation of sentences are left out unless told otherwise; symbols (#$%&+/<=>@\\^|~) never are. Of a
    gold with a digit in it ("-3", "3.5"), or that is nothing but punctuation, only .,;:!? at the end are: "3." is "3", but
    "-3" and "1,800" are not "3" and "1800". With all three options a gold of words is compared as SQuAD's exact match does
    (arXiv 1606.05250). `within` are two tags, ["<answer>", "</answer>"], between which the answer
    stands; the last such place counts, and without one nothing is earned.
    """
    given: str | None = completion
    if within is not None:
        opening, closing = within
        given = last_between(completion, opening, closing)
    if given is None:
        return 0.0
    golds = [answer] if isinstance(answer, str | float | int) else answer
    longest = max((len(str(gold)) for gold in golds), default=0)
    if len(given.strip()) > 18 * longest + 1_000:  # NFKC makes a character of at most 18
        return 0.0

    def normal(text: str) -> tuple[str, str]:
        """The text as words, without punctuation, and exactly, without that at its end."""
        text = unicodedata.normalize("NFKC", text)
        text = text.casefold() if ignore_case else text
        words = text.translate(_PUNCTUATION) if ignore_punctuation else text
        exact = text.rstrip(_SENTENCE_END + "\n\t") or text if ignore_punctuation else text
        return _spaced(words, ignore_articles), _spaced(exact, ignore_articles)

    given_words, given_exact = normal(given)
    for words, exact in map(normal, map(str, golds)):
        by_words = words and not any(map(str.isdigit, words))
        if given_words == words if by_words else given_exact == exact:
            return 1.0
    return 0.0


def _spaced(text: str, ignore_articles: bool) -> str:
    return " ".join((_ARTICLES.sub(" ", text) if ignore_articles else text).split())
