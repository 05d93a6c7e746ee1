import pytest

from areal.rewards.answers.eager import computes_little


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9}}",
        "123456789!",
        r"\binom{9999}{4999}",
        r"\dbinom{2n + 1}{k} 9^{99999}",
        r"\binom93",
        r"{9 \choose 2}",
        r"\sqrt[3]{12345^{2}}",
        r"\sqrt[n + 1]{x}",
        r"\gamma^{2} + \Gamma(\frac{1}{2})",
        r"\gcd(12, 18)^2",
        r"\begin{vmatrix} x^2 & 1 \\ 1 & 1 \end{vmatrix}",
    ],
)
def test_what_is_read_at_once(text: str) -> None:
    assert computes_little(text)


@pytest.mark.parametrize(
    "text",
    [
        r"\binom{99999}{3}",
        r"\binom{9 9 9}{3}",
        r"\binom{9^9}{3}",
        r"\binom{9!}{3}",
        r"\binom{\binom{9}{3}}{3}",
        r"{9^{9} ^9 \choose 2}",
        r"{99999 \choose 2}",
        r"{9^{99} \choose 9999}",
        r"\sqrt[9^9]{2}",
        r"\sqrt[\frac{9!}{2}]{2}",
        r"\Gamma(99,999)",
        r"\Gamma(9999!)",
        r"\gcd(9^{9^9}, 2)",
        r"\lcm(9^9^9, 2)",
        r"\gcd((((9^9)^9)^9)^9, 2)",
        r"\|9!\|",
        r"\operatorname{eye}(20000)",
    ],
)
def test_what_is_turned_away(text: str) -> None:
    assert not computes_little(text)
