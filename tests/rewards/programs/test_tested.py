import pytest

from areal.rewards.programs.tested import builtin_under_test


@pytest.mark.parametrize(
    ("test", "tested"),
    [
        ("assert sum(10, 15) == 6", ("sum",)),
        ("assert abs(sum(10, 15) - 6) < 1e-6", ("sum",)),
        ("assert sum(list((1, 2))) == 3", ("sum",)),
        ("found = sum(10, 15)\nassert isinstance(found, int)", ("sum",)),
        ("for i in range(3):\n    assert max(i, 1) == 1", ("max",)),
        ("assert sorted([2, 1]) == [1, 2]", ("sorted",)),
        ("assert set(sorted([2, 1])) == set([1, 2])", ("sorted",)),
        ("try:\n    pow('a')\nexcept TypeError:\n    pass\nelse:\n    raise ValueError()", ("pow",)),
        ("assert math.isclose(sum(10, 15), 6)", ("sum",)),
        ("assert sorted(divisors(6)) == [1, 2, 3]", ()),
        ("assert list(map(double, [1])) == [2]", ()),
        ("assert max(Pair(1, 2).both) == 2", ()),
        ("def sum(a, b): return 6\nassert sum(10, 15) == 6", ()),
        ("assert 'a'.upper() == 'A'", ()),
        ("assert sum( ==", ()),
        ("assert " + "-" * 100_000 + "1", ()),
    ],
)
def test_the_builtin_that_a_test_tests(test: str, tested: tuple[str, ...]) -> None:
    assert builtin_under_test([], test) == tested


def test_what_the_setup_defines_is_not_tested() -> None:
    assert builtin_under_test(["from math import pow"], "assert pow(2, 3) == 8") == ()
    assert builtin_under_test(["import math\npairs = [(1, 2)]"], "assert max(pairs[0]) == 2") == ("max",)
    assert builtin_under_test(["root = build([1, 2])"], "assert max(root) == 2") == ()
