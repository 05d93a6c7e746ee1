import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import RewardError
from areal.rewards.answers.math_answer import final_answer, math
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool
from areal.rewards.reward import prepare

pytest.importorskip("math_verify")
HOSTILE = [
    r"\boxed{10^{10^{10}}}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{2^{1000000000}}",
    r"\boxed{" + "2^" * 100 + "2}",
    r"\boxed{(100000!)!}",
    r"\boxed{\prod_{i=1}^{1000000} i}",
    r"\boxed{\int_0^1 \sin(x^{x^x}) dx}",
    r"\boxed{(x+1)^{1000}}",
    r"\boxed{(x+y+z)^{100}}",
    r"\boxed{" + r"\frac{1}{" * 100 + "1" + "}" * 100 + "}",
    r"\boxed{" + "(" * 100 + "1" + ")" * 100 + "}",
    r"\boxed{" + "|x|" * 50 + "}",
    r"\boxed{" + "1" * 10_000_000 + "}",
    r"\boxed{\begin{pmatrix}9^{9^{9^9}}\end{pmatrix}}",
    r"\boxed{\begin{pmatrix}9^{9^9} & 1 \\ 1 & 1\end{pmatrix}^{9^9}}",
    r"\boxed{\operatorname{eye}(9999)}",
    r"\boxed{\binom{9^{9^9}}{2}}",
    r"\boxed{\binom{99999999}{5000000}}",
    r"\boxed{\Gamma(99999999)}",
    r"\boxed{\gcd(9^{9^9}, 2)}",
    r"\boxed{\|\begin{pmatrix}9^{9^9} \\ 1\end{pmatrix}\|}",
    r"\boxed{\sqrt[9^{9^9}]{2}}",
    "$" * 1_000_000 + "(" * 1_000_000,
    "1" * 10_000_000,
    r"\boxed{" * 1_000_000,
    "__import__('os').system('false')",
]


@pytest.fixture(scope="module", autouse=True)
def begun() -> None:
    prepare("math", math, {}).begin()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}, I am sure of 3 steps", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\fbox{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"$\boxed{x}$ in words", "x"),
        ("The answer is $x^2$.", "x^2"),
        ("The answer is x + 1.", "x + 1"),
        ("Answer: (1, 2]\nDone in 3 steps", "(1, 2]"),
        ("The answer is 18 dollars.", "18"),
        (r"hence \(y\) and \[z\]", "z"),
        ("we get $x = 3$ and thus 4", "4"),
        ("it is 3, and $x = 4$", "x = 4"),
        ("it costs 1,800", "1,800"),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_final_answer_of_a_text(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("0.5", r"\frac{1}{2}"),
        (r"\frac12", "1/2"),
        (r"\dfrac{1}{2}", "0.5"),
        ("0.333333", r"\frac{1}{3}"),
        (r"5\frac{1}{2}", "5.5"),
        ("1{,}800", "1800"),
        (r"\$1,800", "1800"),
        (r"-\frac{2}{4}", "-1/2"),
        (r"\sqrt{8}", r"2\sqrt2"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\{3, 1, 2\}", r"\{1,2,3\}"),
        ("2, 1", "1, 2"),
        (r"\left(1, 2\right]", "(1,2]"),
        (r"[1,2) \cup (3,\infty)", r"(3, \infty) \cup [1,2)"),
        ("(3, 4)", "(3,4)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("3", "x = 3"),
        ("x = 3", "3"),
        (r"x \leq 3", r"3 \geq x"),
        (r"90^\circ", "90"),
        (r"3\text{ cm}", "3"),
        ("50\\%", "50"),
        ("10^5", "1e5"),
        ("1267650600228229401496703205376", "2^{100}"),
        (r"\text{Monday}", "Monday"),
        ("B", r"\text{B}"),
        (r"2\pi", r"\pi \cdot 2"),
        ("f(x) = x^2 + x", "x + x^2"),
        ("a_n = 3n", "3n"),
        ("AB = 3", "3"),
        ("f(2) = 3", "3"),
        (r"x = \frac{6}{2} = 3", "3"),
        ("x = 1, y = 2", "1, 2"),
        (r"x \in (1, 2)", "(1, 2)"),
        (r"S = \{1, 2\}", r"\{2, 1\}"),
        ("x + y = 3", "y + x = 3"),
        (r"\binom{10}{3}(0.3)^3(0.7)^7", "0.266827932"),
        (r"\sqrt[3]{12345}", "12345^{1/3}"),
    ],
)
def test_equal_answers(given: str, answer: str) -> None:
    assert math(rf"So \boxed{{{given}}}.", answer) == 1.0
    assert math(rf"The answer is ${given}$.", rf"since 1 < 2, \boxed{{{answer}}}") == 1.0


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("0.5", r"\frac{1}{3}"),
        ("0.33", r"\frac{1}{3}"),
        ("2.23", r"\sqrt{5}"),
        ("-3", "3"),
        ("18", "17"),
        ("[1,2]", "(1,2]"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        ("(4, 3)", "(3, 4)"),
        ("(x-1)^2", "x^2+2x+1"),
        ("x < 3", "x > 3"),
        ("y = 3", "x = 4"),
        (r"\text{Tuesday}", "Monday"),
        ("2^{x} = 3", "3"),
        ("5 = 3", "3"),
        ("2x = 3", "3"),
        ("x = y = 3", "3"),
        (r"x = \frac{8}{2} = 3", "3"),
        ("4 + 4 = 9", "9"),
        ("n^2 = 49", "49"),
        ("5 = 1, 6 = 2", "1, 2"),
        ("(1, 2)", r"\{1, 2\}"),
        (r"\{1, 2\}", "(1, 2)"),
        (r"(0, \infty)", r"\{0, \infty\}"),
        (r"S = \{1, 2, 3\}", "(1, 2, 3)"),
        ("", "3"),
        ("!!", "3"),
        (r"\frac{3}", "3"),
        (r"\}3", "3"),
    ],
)
def test_unequal_answers(given: str, answer: str) -> None:
    assert math(rf"So \boxed{{{given}}}.", answer) == 0.0


@pytest.mark.parametrize("answer", ["!!", "", r"\boxed{}", r"\frac{1}{2", "{{"])
def test_an_answer_that_cannot_be_read_is_an_error(answer: str) -> None:
    with pytest.raises(RewardError, match="cannot be read as mathematics"):
        math("3", answer)


@pytest.mark.parametrize("completion", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("answer", ["3", "x^2 + 1", r"\begin{pmatrix}3\end{pmatrix}"])
def test_a_hostile_answer_earns_nothing_soon(completion: str, answer: str) -> None:
    began = time.process_time()
    assert math(completion, answer) == 0.0
    assert time.process_time() - began < 1.5


@settings(max_examples=50)
@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6), st.integers(2, 9))
def test_any_fraction_in_other_terms(numerator: int, denominator: int, factor: int) -> None:
    written = rf"\boxed{{\frac{{{numerator * factor}}}{{{denominator * factor}}}}}"
    assert math(written, f"{numerator}/{denominator}") == 1.0
    assert math(written, f"{numerator + 1}/{denominator}") == 0.0


def test_what_gets_past_the_guards_ends_at_the_deadline_and_harms_no_other() -> None:
    """The row's own answer is not guarded: comparing with this one would take sympy for ever."""
    config = RewardsConfig.model_validate({"functions": [{"name": "math"}], "timeout_s": 2.0, "retries": 0})
    rows = [("3", "3"), (r"\boxed{7}", r"(100000!)!"), (r"\boxed{0.5}", r"\frac{1}{2}"), ("4", "5"), ("6", "6")]

    async def work() -> list[float | BaseException]:
        pool = RewardPool(config)
        await pool.start()
        try:
            calls = [pool.score("prompt", completion, {"answer": answer}) for completion, answer in rows]
            scores = await asyncio.gather(*calls, return_exceptions=True)
            return [score if isinstance(score, BaseException) else score.total for score in scores]
        finally:
            await pool.stop()

    first, endless, *others = asyncio.run(work())
    assert [first, *others] == [1.0, 1.0, 0.0, 1.0]
    assert str(endless) == "reward 'math' failed once, lastly: timed out after 2 s"


def test_it_sets_no_alarm_and_needs_no_main_thread() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(math, r"\boxed{\frac{2}{6}}", r"\frac{1}{3}").result() == 1.0
    assert signal.getsignal(signal.SIGALRM) == before
