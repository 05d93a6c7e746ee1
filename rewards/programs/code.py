"""Whether a program does what its tests want: the reward of `code`. Programs run in a sandbox (see sandbox/).

    row has                                          a test is                      the program
    test, entry_point (HumanEval)                    check(entry_point)             continues the prompt, or stands alone
    test_list, test_setup_code, test_imports (MBPP)  each statement of the list     is a module
    tests or input_output, with fn_name (LeetCode)   a call, and what it returns    has that function, or Solution().it
    tests or input_output (APPS, TACO)               an input, and what is printed  is a script

What is expected never comes to where the program runs, so that a program passes a test by giving the right value and in no
other way; a test that is code runs apart from it, too (see sandbox/examiner.py). Two limits: where a test uses functions of
the program's besides the one that it tests, it believes those, too; and a value that such a test gets is a copy, so what
the program's own classes overload does not count (of classes that the test defines, it does). Names that Python has, too,
are Python's in a test, but for the function that it tests: of a test_list its entry_point, or else as tested.py says.
"""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from ...broker.errors import ConfigError, RewardError
from ..reward import begins_with
from .sandbox.confine import Limits
from .sandbox.examiner import ASSERTS, CALLS, SCRIPTS
from .sandbox.sandbox import find_walls, run
from .sandbox.values import loads
from .sandbox.walls import ANY, Walls
from .tested import builtin_under_test

LANGUAGES = ("```python", "```python3", "```py")
MIN_MEMORY_MIB = 64
MAX_NUMBER_CHARS = 64
TOLERANCE = 1e-9
ENDED_S = 3.5
"""What it may take beside the program's own time to start it and, where it hangs, to end all that it started."""

_begun: dict[tuple[str, tuple[str, ...]], Walls] = {}


def _begin(
    walls: str, packages: Sequence[str], timeout_s: float, memory_mib: int, disk_mib: int, output_kib: int
) -> None:
    """Raises ConfigError where there is no sandbox, or no such limits."""
    if memory_mib < MIN_MEMORY_MIB:
        raise ConfigError(f"kwargs.memory_mib is {memory_mib}, and Python alone takes {MIN_MEMORY_MIB}")
    for name, value in (("timeout_s", timeout_s), ("disk_mib", disk_mib), ("output_kib", output_kib)):
        if not value > 0:
            raise ConfigError(f"kwargs.{name} is {value}, and has to be more than 0")
    _begun[walls, tuple(packages)] = find_walls(walls, packages)


def _longest_s(timeout_s: float) -> float:
    return timeout_s + ENDED_S


@begins_with(_begin, longest_s=_longest_s)
def code(
    completion: str,
    prompt: str = "",
    *,
    test: str | None = None,
    entry_point: str | None = None,
    test_list: Sequence[str] | None = None,
    test_setup_code: str | None = None,
    test_imports: Sequence[str] | None = None,
    tests: Any = None,
    input_output: Any = None,
    all_or_nothing: bool = False,
    timeout_s: float = 6.0,
    memory_mib: int = 512,
    disk_mib: int = 16,
    output_kib: int = 1024,
    preamble: str = "",
    packages: Sequence[str] = (),
    walls: str = ANY,
) -> float:
    """The share of the row's tests that the program in the completion passes; with `all_or_nothing` 1.0 or 0.0.

    The program is the last block marked ```python, or else all of the completion. It has `timeout_s` for all tests (less
    by 3.5 than rewards.timeout_s), and at any moment so much memory and
    disk; it may print or return `output_kib` in each test. `preamble` is put before it, as "from typing import *".
    `packages` are folders that it may import from, as `pip install --target` makes them. `walls` is any, namespaces,
    bubblewrap, or the sentence with which one does without a sandbox (see sandbox/walls.py).
    """
    behind = _begun.get((walls, tuple(packages)))
    if behind is None:
        raise RewardError("walls and packages are for rewards.functions.kwargs to say, never for a row of the dataset")
    program, limits = program_in(completion), Limits(timeout_s, memory_mib, disk_mib, output_kib)
    if test and entry_point:
        sources = [prompt + program, f"{prompt}\n{program}", f"{prompt}    {program}", program]
        outcomes, count = _held(behind, limits, _after(preamble, sources), humaneval(prompt, test, entry_point))
    elif test_list:
        setup = ["\n".join(test_imports or ()), test_setup_code or ""]
        named = (entry_point,) if entry_point and entry_point.isidentifier() else None
        asserts = [(builtin_under_test(setup, each) if named is None else named, each) for each in test_list]
        wanted = ([(part, False) for part in setup], asserts)
        outcomes, count = _held(behind, limits, _after(preamble, [program]), wanted)
    else:
        pairs = _pairs(input_output if tests is None else tests)
        outcomes, count = _answered(behind, limits, _after(preamble, [program]), pairs)
    passed = sum(outcomes)
    return float(passed == count) if all_or_nothing else passed / count


def program_in(completion: str) -> str:
    """The last block of the completion that is marked as Python, though it be not closed; else the completion."""
    found: list[str] | None = None
    block: list[str] | None = None
    for line in completion.splitlines(keepends=True):
        if block is None:
            block = [] if line.strip().lower() in LANGUAGES else None
        elif line.strip() == "```":
            found, block = block, None
        else:
            block.append(line)
    last = found if block is None else block
    return completion if last is None else "".join(last)


def humaneval(prompt: str, test: str, entry_point: str) -> Any:
    """The one test of such a row. What the prompt defines besides the function is the test's own, too."""
    if "def check(" not in test or not entry_point.isidentifier():
        raise RewardError(
            f"the row's test defines no check(candidate), or {entry_point!r:.100} is no name of a function"
        )
    headed = f"{prompt}\n    pass\n"  # of a prompt that ends with the head of a function, and no docstring
    return [(prompt, True), (headed, True)], [((entry_point,), f"{test}\n\ncheck({entry_point})\n")]


def _after(preamble: str, sources: Sequence[str]) -> list[str]:
    return [f"{preamble}\n{source}" if preamble else source for source in sources]


def _held(walls: Walls, limits: Limits, sources: list[str], tests: Any) -> tuple[list[bool], int]:
    return [outcome is True for outcome in run(walls, limits, sources, ASSERTS, tests)], len(tests[1])


class _Pairs:
    """Inputs with their outputs; of a function when it has a name."""

    def __init__(self, inputs: list[Any], outputs: list[Any], name: str | None) -> None:
        self.inputs, self.outputs, self.name = inputs, outputs, name


def _answered(walls: Walls, limits: Limits, sources: list[str], pairs: _Pairs) -> tuple[list[bool], int]:
    if pairs.name is None:
        written = run(walls, limits, sources, SCRIPTS, pairs.inputs)
        passed = [
            each is not None and same_output(each, out) for each, out in zip(written, pairs.outputs, strict=False)
        ]
    else:
        said = run(walls, limits, sources, CALLS, (pairs.name, pairs.inputs))
        passed = [each is not None and _returned(each, out) for each, out in zip(said, pairs.outputs, strict=False)]
    return passed, len(pairs.outputs)


def _pairs(column: Any) -> _Pairs:
    """What the column tests or input_output says; raises RewardError."""
    try:
        given = json.loads(column) if isinstance(column, str) else column
        if not isinstance(given, Mapping):
            raise TypeError("no mapping with inputs and outputs")
        inputs, outputs, name = list(given["inputs"]), list(given["outputs"]), given.get("fn_name")
        if len(inputs) != len(outputs) or not inputs:
            raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
        if name is None:
            return _Pairs([_text(each) for each in inputs], [_text(each) for each in outputs], None)
        calls = [_arguments(each) for each in inputs]
        wanted = [[json.loads(out)] if isinstance(each, str) else _either(out) for each, out in zip(inputs, outputs)]  # noqa: B905
        return _Pairs(calls, wanted, str(name))
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise RewardError(
            "the row has no tests: wanted are test and entry_point, or test_list, or tests (or input_output) as a mapping "
            f"of inputs, outputs and perhaps fn_name ({error!r:.200})"
        ) from error


def _text(given: Any) -> str:
    """An input or output of a script; some data have it as a list of lines."""
    return given if isinstance(given, str) else "\n".join(str(line) for line in given)


def _arguments(given: Any) -> list[Any]:
    """The arguments of a call: a list, or text with one in JSON a line."""
    return [json.loads(line) for line in given.splitlines() if line.strip()] if isinstance(given, str) else list(given)


def _either(wanted: Any) -> list[Any]:
    """The values that are right: some data have what is returned within a list of one."""
    return [wanted, wanted[0]] if isinstance(wanted, list) and len(wanted) == 1 else [wanted]


def _returned(answer: bytes, wanted: Sequence[Any]) -> bool:
    """Whether a program's answer is that it returned one of these."""
    try:
        holds, found, *_ = loads(answer, lambda number: object())
        return holds is True and any(same(found, each) for each in wanted)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False


def same(found: Any, wanted: Any) -> bool:
    """Whether a value is the wanted JSON value; tuples count as lists, and numbers as keys count as their text.

    It follows what is wanted: what was found may hold itself.
    """
    if isinstance(wanted, list):
        alike = isinstance(found, list | tuple) and len(found) == len(wanted)
        return alike and all(map(same, found, wanted))
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or len(found) != len(wanted):
            return False
        by_text = {str(key) if isinstance(key, int | float) else key: value for key, value in found.items()}
        return all(key in by_text and same(by_text[key], value) for key, value in wanted.items())
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(found) in (bool, int, float, str, type(None)) and bool(found == wanted)


def same_output(written: bytes, wanted: str) -> bool:
    """Whether a script wrote what is wanted, but for space at the ends of lines and of all, and how numbers are written."""
    found_lines, wanted_lines = _lines(written.decode("utf-8", "replace")), _lines(wanted)
    if len(found_lines) != len(wanted_lines):
        return False
    return all(one == other or _same_numbers(one, other) for one, other in zip(found_lines, wanted_lines, strict=True))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_numbers(found: str, wanted: str) -> bool:
    ones, others = found.split(), wanted.split()
    return len(ones) == len(others) and all(map(_same_number, ones, others))


def _same_number(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        return max(len(found), len(wanted)) <= MAX_NUMBER_CHARS and Decimal(found) == Decimal(wanted)
    except InvalidOperation:
        return False
