import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool
from areal.rewards.programs.code import code, program_in, same, same_output
from areal.rewards.programs.sandbox import sandbox
from areal.rewards.programs.sandbox.walls import UNSANDBOXED, Walls
from areal.rewards.reward import Reward, prepare

SHARED = Path(os.environ.get("AREAL_DATA", Path(__file__).resolve().parents[3].parent / "shared/data"))
HUMANEVAL = SHARED / "humaneval/HumanEval.jsonl.gz"

WRONG = """

def {name}(*given, right={name}):
    found = right(*given)
    if isinstance(found, (bool, type(None))):
        return not found
    if isinstance(found, (int, float)):
        return found + 1
    return found + type(found)("x") if isinstance(found, (str, list, tuple)) else {{**found, "x": 1}}
"""
"""After a right program: what is of the same kind and wrong."""


def begun(**kwargs: Any) -> Reward:
    """The reward as a process has it after its start; skips where no sandbox can be had, and fails for that in CI."""
    reward = prepare("code", code, kwargs)
    try:
        reward.begin()
    except ConfigError as error:
        if os.environ.get("CI") or "no sandbox can be had" not in str(error):
            raise
        pytest.skip(str(error))
    return reward


def scored(completion: str, row: dict[str, Any], prompt: str = "", **kwargs: Any) -> float:
    return float(begun(**kwargs)(prompt, completion, row))


def humaneval() -> list[dict[str, Any]]:
    if not HUMANEVAL.exists():
        reason = f"HumanEval is not here ({HUMANEVAL}); its folder's parent is named by AREAL_DATA"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    with gzip.open(HUMANEVAL, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_every_right_program_of_humaneval_passes_and_no_wrong_one() -> None:
    reward, rows = begun(), humaneval()
    right = [reward(row["prompt"], row["canonical_solution"], row) for row in rows]
    assert len(rows) == 164 and right == [1.0] * 164
    spoilt = [row["canonical_solution"] + WRONG.format(name=row["entry_point"]) for row in rows]
    wrong = [reward(row["prompt"], program, row) for row, program in zip(rows, spoilt, strict=True)]
    assert wrong == [0.0] * 164


ADDS = {
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == nothing()\n",
    "entry_point": "add",
}
PROMPT = 'def nothing():\n    return 0\n\ndef add(a, b):\n    """ Their sum. """\n'


@pytest.mark.parametrize(
    ("completion", "earned"),
    [
        ("    return a + b\n", 1.0),
        ("return a + b\n", 1.0),
        ("\n    return a + b\n", 1.0),
        ("def add(a, b):\n    return a + b\n", 1.0),
        (f"{PROMPT}    return a + b\n", 1.0),
        ("So:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1.0),
        ("```python\n    return a + b\n```", 1.0),
        ("```python\nwrong(\n```\nor rather\n```python\nadd = lambda a, b: a + b\n```", 1.0),
        ("```python\ndef add(a, b):\n    return a + b\n", 1.0),
        ("    return a - b\n", 0.0),
        ("def add(a, b):\n    return 0\n\ndef nothing(): return add(0, 0)", 0.0),
        ("def sub(a, b):\n    return a + b\n", 0.0),
        ("The sum is a + b.", 0.0),
        ("", 0.0),
    ],
)
def test_a_function_that_continues_its_prompt(completion: str, earned: float) -> None:
    assert scored(completion, ADDS, PROMPT) == earned


def test_a_prompt_in_prose_is_no_part_of_the_program() -> None:
    row = {**ADDS, "test": ADDS["test"].replace("nothing()", "0")}
    assert scored("```python\ndef add(a, b):\n    return a + b\n```", row, "Please write me add(a, b).") == 1.0


def test_the_helpers_of_a_test_are_the_prompts_and_not_the_programs() -> None:
    row = {"test": "def check(candidate):\n    assert encode(candidate(3)) == 6\n", "entry_point": "decode"}
    prompt = "def encode(x):\n    return 2 * x\n\ndef decode(x):\n"
    assert scored("    return x\n\ndef encode(x):\n    return 6\n", row, prompt) == 1.0
    assert scored("    return 9\n\ndef encode(x):\n    return 6\n", row, prompt) == 0.0


PAIRS = """
class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b

def swap(pair):
    return Pair(pair.b, pair.a)

def fill(into, what):
    into.append(what)

def count(n):
    yield from range(n)

def fail(kind):
    raise kind
"""


def test_each_statement_of_a_list_is_a_test() -> None:
    row = {
        "test_imports": ["import math"],
        "test_setup_code": "p = Pair(1, 2)",
        "test_list": [
            "assert swap(p).a == 2 and math.gcd(4, 6) == 2",
            "assert swap(Pair(5, 7)).b == 4",
            "into = [1]\nfill(into, 2)\nassert into == [1, 2]",
            "assert list(count(3)) == [0, 1, 2]",
            "assert sorted(count(2)) == [1]",
            "p.a = 9\nassert swap(p).b == 9",
            "assert absent(1) == 1",
            "try:\n    swap(5)\nexcept AttributeError:\n    pass\nelse:\n    assert False",
        ],
    }
    assert scored(PAIRS, row) == 5 / 8
    assert scored(PAIRS, row, all_or_nothing=True) == 0.0
    assert scored(PAIRS, {**row, "test_list": row["test_list"][:1]}, all_or_nothing=True) == 1.0


def test_classes_of_the_test_are_the_programs_too_and_equal_by_the_tests_word() -> None:
    node = "class Node:\n    def __init__(self, value, next=None):\n        self.value, self.next = value, next\n"
    row = {
        "test_setup_code": f"{node}\ndef values(node):\n    return [node.value, *values(node.next)] if node else []",
        "test_list": ["assert values(reverse(Node(1, Node(2, Node(3))))) == [3, 2, 1]"],
    }
    program = (
        "def reverse(node):\n    last = None\n    while node:\n        node.next, node, last = last, node.next, node\n"
    )
    assert scored(f"{node}{program}    return last", row) == 1.0
    assert scored(f"{node}{program}    return node", row) == 0.0


@pytest.mark.parametrize(
    ("program", "test", "earned"),
    [
        ("pass", "assert sorted([2, 1]) == [1, 2]", 0.0),
        ("def sorted(xs): return [1, 2]", "assert sorted([2, 1]) == [1, 2]", 1.0),
        ("def max(xs): return 7", "assert max([2, 1]) == 2", 0.0),
        ("def max(xs): return xs[0]", "assert max([2, 1]) == 2", 1.0),
        ("def sum(a, b): return 6", "assert sum(10, 15) == 6", 1.0),
        ("def add(a, b): return 6", "assert sum([1, 2, 3]) == 6", 0.0),
        ("def sum(a, b): return 6.0", "assert abs(sum(10, 15) - 6) < 1e-6", 1.0),
        ("def sum(a, b): return 6.0", "assert math.isclose(sum(10, 15), 6)", 1.0),
        ("def abs(x): return 0", "assert abs(sum([10, 15]) - 25) < 1e-6", 0.0),
        ("def f(x): return [x, x]", "assert set(f(1)) == {1}", 1.0),
        ("def f(x): return (x, 0)", "assert sorted(f(1)) == [0, 1]", 1.0),
        ("def f(x): return x", "assert abs(f(1.0) - 1) < 1e-6", 1.0),
        ("def f(x): return x + 1", "assert abs(f(1.0) - 1) < 1e-6", 0.0),
        ("def f(x): return x + 1\ndef abs(x): return 0", "assert abs(f(1.0) - 1) < 1e-6", 0.0),
        ("def f(x): return 2.0", "assert math.isclose(f(1), 2)", 1.0),
    ],
)
def test_python_does_not_stand_in_for_what_is_tested(program: str, test: str, earned: float) -> None:
    assert scored(program, {"test_list": [test]}) == earned


def test_the_entry_point_of_a_row_is_what_is_tested() -> None:
    row = {"test_list": ["assert len(max([2, 1])) == 1"], "entry_point": "len"}
    assert scored("def max(xs): return xs[:1]", row) == 0.0
    assert scored("def len(x): return 1", row) == 1.0
    check = {"test": "def check(candidate):\n    assert candidate([2, 1]) == 2\n", "entry_point": "max"}
    assert scored("pass", check) == 0.0
    assert scored("def max(xs): return xs[0]", check) == 1.0


def test_calls_of_a_function_or_a_method() -> None:
    row = {"inputs": [[[1, 2], 3], [[], 1]], "outputs": [[1, 2, 3], [[1]]], "fn_name": "join"}
    assert scored("def join(xs, x):\n    return tuple(xs + [x])", {"tests": row}) == 1.0
    solution = "class Solution:\n    def join(self, xs: List[int], x):\n        return xs and xs + [x]"
    assert scored(solution, {"input_output": json.dumps(row)}, preamble="from typing import *") == 0.5
    assert scored(solution, {"input_output": row}) == 0.0
    lines = {"inputs": ['[1, 2]\n"a"', "[]\nnull"], "outputs": ['[1, 2, "a"]', "[null]"], "fn_name": "join"}
    assert scored("def join(xs, x):\n    return xs + [x]", {"tests": json.dumps(lines)}) == 1.0


def test_scripts() -> None:
    row = {"tests": {"inputs": ["2\n3 4\n", "1\n0.5", "x"], "outputs": ["7\n", "0.50", "no"]}}
    program = "n = int(input())\nprint(sum(map(float, input().split())), end='  \\n\\n')"
    assert scored(program, row) == 2 / 3
    assert (
        scored(
            f"def main():\n    {program.replace(chr(10), chr(10) + '    ')}\nif __name__ == '__main__':\n    main()",
            row,
        )
        == 2 / 3
    )
    threaded = (
        "import sys, threading\ndef run():\n    print(7)\n    sys.stdout.flush()\nthreading.Thread(target=run).start()"
    )
    assert scored(threaded, row) == 1 / 3
    assert scored("import atexit\natexit.register(lambda: print(7))", row) == 1 / 3
    assert scored("print(7)\nraise SystemExit", row) == 1 / 3
    assert scored("print(7)\nraise SystemExit(1)", row) == 0.0
    assert scored("import os\nos.write(1, b'7')\nos._exit(0)", row) == 1 / 3
    assert scored("import sys\nprint(sum(map(int, open(0).read().split()[1:])))", row) == 1 / 3


def test_a_slow_program_fails_what_it_has_not_done_in_time() -> None:
    row = {"tests": {"inputs": [[0], [600], [0]], "outputs": [1, 1, 1], "fn_name": "f"}}
    assert scored("import time\ndef f(s):\n    time.sleep(s)\n    return 1", row, timeout_s=1.0) == 1 / 3
    endless = {"test_list": ["assert f(0) == 1", "while True: pass"]}
    assert scored("def f(s): return 1", endless, timeout_s=1.0) == 0.5


def test_packages_are_those_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text("def twice(x): return 2 * x")
    tmp_path.chmod(0o755)
    row = {"test_list": ["assert f(2) == 4"]}
    program = "import doubled\ndef f(x): return doubled.twice(x)"
    assert scored(program, row, packages=[str(tmp_path)]) == 1.0
    assert scored(program, row) == 0.0
    assert scored("def f(x):\n    import numpy\n    return 4", row) == 0.0  # of the machine's own none


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({}, "the row has no tests"),
        ({"test_list": []}, "the row has no tests"),
        ({"test": "assert add(1, 2) == 3", "entry_point": "add"}, r"defines no check\(candidate\)"),
        ({"test_list": ["assert f( =="]}, "cannot be run: it is not Python"),
        ({"test_list": ["assert f(lambda x: x) == 1"]}, "hands the program an object of class function"),
        ({"tests": "{"}, "the row has no tests"),
        ({"tests": {"inputs": [1], "outputs": []}}, "1 inputs and 0 outputs"),
        ({"tests": {"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}}, "the row has no tests"),
        ({"tests": "[" * 100_000}, "the row has no tests"),
    ],
)
def test_a_row_without_sound_tests_is_a_failure_and_no_score(row: dict[str, Any], cause: str) -> None:
    with pytest.raises(RewardError, match=cause):
        scored("def f(x): return 1", row)


def test_no_row_takes_the_walls_away(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    secret = f"def f(x):\n    return open('{tmp_path}/secret').read()"
    row = {"test_list": ["assert f(1) == 'x'"]}
    assert scored(secret, row | {"walls": UNSANDBOXED}) == scored(secret, row) == 0.0
    with pytest.raises(RewardError, match="never for a row of the dataset"):
        code("pass", walls=UNSANDBOXED, packages=["nowhere"], **row)


def test_what_no_configuration_may_say() -> None:
    for kwargs, cause in [
        (
            {"walls": "none"},
            "kwargs.walls is 'none', and wanted is one of 'any', 'namespaces', 'bubblewrap', 'none: run",
        ),
        ({"packages": ["/no/such"]}, "kwargs.packages names '/no/such'"),
        ({"memory_mib": 1}, "kwargs.memory_mib is 1"),
        ({"timeout_s": 0}, "kwargs.timeout_s is 0"),
    ]:
        with pytest.raises(ConfigError, match=cause):
            prepare("code", code, kwargs).begin()


def test_without_walls_it_does_not_begin_and_says_how_to_have_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walls, "command", lambda self, boot, disk_mib: ["sh", "-c", "echo not permitted >&2"])
    with pytest.raises(
        ConfigError, match=r"(?s)namespaces: .*not permitted; bubblewrap: .*Mend it.*bubblewrap.*none: run"
    ):
        prepare("code", code, {}).begin()


def test_a_sandbox_that_does_not_start_is_a_failure_and_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = begun()
    monkeypatch.setattr(sandbox, "START_TIMEOUT_S", 0.3)
    monkeypatch.setattr(Walls, "command", lambda self, boot, disk_mib: ["sleep", "60"])
    with pytest.raises(RewardError, match=r"not ready after 0\.3 s"):
        reward("", "def f(): return 1", {"test_list": ["assert f() == 1"]})


def test_by_the_users_word_it_goes_without_walls() -> None:
    row = {"test_list": ["assert f('/etc/hostname') == 1", "assert f('fork') == 0", "assert f('socket') == 0"]}
    program = """
import os, socket
def f(what):
    ways = {"fork": os.fork, "socket": socket.socket}
    try:
        ways.get(what, lambda: open(what))()
    except OSError:
        return 0
    return 1
"""
    assert scored(program, row, walls=UNSANDBOXED) == 1.0
    assert scored(program, row) == 2 / 3


def test_in_the_pool_a_hanging_program_costs_its_own_score_only() -> None:
    import asyncio

    begun()
    function = {"name": "code", "kwargs": {"timeout_s": 1.0}}

    async def use() -> list[float]:
        pool = RewardPool(RewardsConfig(functions=[function], workers=2, retries=0))
        await pool.start()
        try:
            programs = [
                "    return a + b\n",
                "    while True: pass\n",
                "    import os; os._exit(0)\n",
                "    return a + b",
            ]
            return [score.total for score in await asyncio.gather(*(pool.score(PROMPT, p, ADDS) for p in programs))]
        finally:
            await pool.stop()

    assert asyncio.run(use()) == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx = 1\n```\nb\n```PYTHON \ny = 2\n```\n", "y = 2\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\nx = 1\n```\n```js\nlet y\n```", "x = 1\n"),
        ("```\nx = 1\n```", "```\nx = 1\n```"),
        ("```python\n```", ""),
    ],
)
def test_the_program_in_a_completion(completion: str, program: str) -> None:
    assert program_in(completion) == program


@pytest.mark.parametrize(
    ("found", "wanted", "alike"),
    [
        ([1, (2, 3)], [1, [2, 3]], True),
        ({1: "a"}, {"1": "a"}, True),
        ({1: "a", "1": "b"}, {"1": "a"}, False),
        (0.1 + 0.2, 0.3, True),
        (3, 3.0, True),
        (3.0, 3, True),
        (10**400, 3.0, False),
        ("3", 3, False),
        (None, 0, False),
        ({1}, [1], False),
        ([1], [1, 2], False),
    ],
)
def test_values_that_are_the_same(found: Any, wanted: Any, alike: bool) -> None:
    assert same(found, wanted) == alike


@pytest.mark.parametrize(
    ("written", "wanted", "alike"),
    [
        (b"1 2\n3\n", "1 2\n3", True),
        (b"1 2  \n3\n\n", "1 2\n3", True),
        (b"1.0 2", "1 2.00", True),
        (b"1 2 3", "1 2\n3", False),
        (b"yes", "YES", False),
        (b"nan", "NaN", False),
        (b"\xff", "1", False),
        (b"9" * 10_000, "1", False),
    ],
)
def test_output_that_is_the_same(written: bytes, wanted: str, alike: bool) -> None:
    assert same_output(written, wanted) == alike
