"""The function of a program that an assert tests, where Python has one of the same name.

assert sum(10, 15) == 6                    the program's sum
assert abs(sum(10, 15) - 6) < 1e-6         the program's sum, and Python's abs
assert sorted(divisors(6)) == [1, 2, 3]    the program's divisors, and Python's sorted
"""

import ast
import builtins
import sys
from collections.abc import Iterator, Sequence

_HELPERS = """
abs all any bool bytearray bytes callable complex dict enumerate filter float format frozenset getattr hasattr id int
isinstance issubclass iter len list map next print range repr reversed round set sorted str tuple type vars zip
"""
"""What tests put around the function that they test, or make its arguments with."""


def builtin_under_test(setup: Sequence[str], test: str) -> tuple[str, ...]:
    """The name that Python has, too, of the function that the test tests; none where that has a name of its own.

    It is the first that is called and no helper; of helpers the first that is called with no other call.
    """
    try:
        trees = [ast.parse(source) for source in (*setup, test)]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ()  # what runs the test says so
    bound = {name for tree in trees for name in _bound(tree)}
    if any(name not in bound and not hasattr(builtins, name) for tree in trees for name in _read(tree)):
        return ()
    calls = sorted(_calls(trees[-1], bound), key=lambda call: (call.lineno, call.col_offset))
    names = [_name(call) for call in calls]
    plain = [name for name in names if name not in _HELPERS.split()]
    innermost = [name for name, call in zip(names, calls, strict=True) if len(list(_calls(call, bound))) == 1]
    return tuple((plain or innermost)[:1])


def _bound(tree: ast.AST) -> Iterator[str]:
    """The names that the code gives a value anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _read(tree: ast.AST) -> Iterator[str]:
    """The names that the code speaks of, but for modules of Python's."""
    of_modules = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in sys.stdlib_module_names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in of_modules:
            yield node.id


def _calls(tree: ast.AST, bound: set[str]) -> Iterator[ast.Call]:
    """The calls of Python's own functions, but not of its exceptions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in bound:
            kind = getattr(builtins, node.func.id, None)
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                yield node


def _name(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Name)
    return call.func.id
