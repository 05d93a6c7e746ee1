import pytest

from areal.rewards.answers.magnitude import magnitude, tame

sympy = pytest.importorskip("sympy")


def read(text: str) -> object:
    """As math-verify would: nothing is computed yet."""
    from sympy.parsing.sympy_parser import parse_expr

    return parse_expr(text, evaluate=False)


@pytest.mark.parametrize(
    ("text", "digits", "terms"),
    [("999", 4, 1), ("x", 1, 1), ("x + y", 2, 2), ("2**10", 16, 1), ("(x + y)**3", 6, 4), ("(x + y)*(x + z)", 4, 4)],
)
def test_magnitudes_counted_by_hand(text: str, digits: float, terms: float) -> None:
    found = magnitude(read(text))
    assert found.terms == terms and found.digits == pytest.approx(digits, abs=digits / 2)


@pytest.mark.parametrize("text", ["2**1000", "(x + 1)**20", "x**2024", "1.5**9999", "exp(-x**2)"])
def test_what_is_tame(text: str) -> None:
    assert tame(read(text))


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "10**10**10",
        "2**1000000",
        "(x + 1)**1000",
        "(x + y + z)**100",
        "(x + (x + (x + (x + 1)**4)**4)**4)**4",
        "x**y**9**9**9",
        "Sum(x, (x, 1, 10))",
        "(1 + I)**(10**10)",
        "0.5**(10**10)*7",
    ],
)
def test_what_is_not(text: str) -> None:
    assert not tame(read(text))


def test_factorials() -> None:
    def factorial(number: object) -> object:
        return sympy.factorial(number, evaluate=False)

    assert tame(factorial(20)) and tame(sympy.binomial(100, 3, evaluate=False))
    assert not tame(factorial(100_000)) and not tame(factorial(factorial(100)))
    assert not tame(sympy.binomial(100_000, 50_000, evaluate=False))


def test_matrices() -> None:
    assert (
        magnitude(sympy.Matrix([[999, 999], [1, 1]])).terms
        == magnitude(sympy.ImmutableMatrix(2, 2, [9] * 4)).terms
        == 4
    )
    assert tame(sympy.Matrix([[1, 2], [3, 4]])) and not tame(sympy.Matrix([[read("9**9**9**9")]]))
    assert not tame(sympy.eye(1_000)) and not tame(sympy.eye(20_000))
