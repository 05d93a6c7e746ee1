r"""Which LaTeX the reader of math-verify computes while it reads: numbers there must be small before it is let at them.

Most of a formula is kept as it stands, and its tree tells how large it is. \binom, \choose, \Gamma, \gcd, \lcm, determinants,
norms and the indices of roots are not.
"""

import re

MAX_COMPUTED_DIGITS = 4
MAX_POWERS_OF_POWERS = 2

# A number, or a few letters, numbers of two digits, and signs.
_SMALL = r"(?:\s*[0-9]{1,4}\s*|(?![^{}]*[0-9]\s*[0-9]\s*[0-9])[a-zA-Z0-9+\-\s]{1,12})"
_BINOMIAL = re.compile(rf"\\[dt]?binom\s*(?:\{{{_SMALL}\}}|[0-9a-zA-Z])\s*(?:\{{{_SMALL}\}}|[0-9a-zA-Z])")
_CHOICE = re.compile(rf"\{{{_SMALL}\\choose(?![a-zA-Z]){_SMALL}\}}")
_ROOT = re.compile(r"\\sqrt\s*\[[\\\w\s+*/-]{1,12}\]")
_GAMMA = re.compile(r"\\[gG]amma(?![a-zA-Z])")
_COMPUTED = re.compile(r"\\(?:gcd|lcm|det|operatorname|[lr]?Vert|\||begin\{[vV]matrix)")
_LONG_NUMBER = re.compile(rf"[0-9](?:[,.]?[0-9]){{{MAX_COMPUTED_DIGITS}}}")
_SMALL_POWER = re.compile(r"\^\s*(?:\{\s*-?[0-9a-zA-Z]{1,2}\s*\}|[0-9a-zA-Z])(?!\s*\^)")
_POWER_OF_POWER = re.compile(r"[)\]}]\s*\^")


def computes_little(text: str) -> bool:
    """Whether nothing is large in what the reader computes while it reads `text`."""
    for small in (_BINOMIAL, _CHOICE, _ROOT):
        text = small.sub(" ", text)
    if re.search(r"binom|\\choose|\\sqrt\s*\[", text):
        return False
    if _GAMMA.search(text) and ("!" in text or _LONG_NUMBER.search(text)):
        return False
    if not _COMPUTED.search(text):
        return True
    few = len(_POWER_OF_POWER.findall(text)) <= MAX_POWERS_OF_POWERS
    return few and not re.search(r"[!^]", _SMALL_POWER.sub("", text)) and not _LONG_NUMBER.search(text)
