"""The process that runs what a model wrote. It knows the program and what it is asked, and nothing else.

As a script it reads its input and writes its output. Else it serves: loads the program as a module when first asked, and
does to its objects what pid 1 says. Its answers are values; whoever has taken over this process can answer only that.
"""

from __future__ import annotations

import operator
import os
import sys

from .confine import MAX_FILES, end_with_parent, filter_calls
from .pipes import frame, read_frame, write_all
from .values import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

SCRIPT, SERVE = b"s", b"m"
MAX_ITEMS = 1_000_000
MODULE = "program"


def run(kind: bytes, sources: Sequence[str], pipes: tuple[int, int], code: bytes) -> NoReturn:
    """The life of the process, under the filter `code`; `pipes` are what it is asked by and what it answers by."""
    requests, answers = pipes
    status = 1
    try:
        end_with_parent()
        given = os.memfd_create("input") if kind == SCRIPT else os.open(os.devnull, os.O_RDONLY)
        if kind == SCRIPT:
            write_all(given, read_frame(requests))
            os.lseek(given, 0, os.SEEK_SET)
        _arrange({0: given, 1: answers if kind == SCRIPT else None})
        close_all_but(0, 1, 2, *(() if kind == SCRIPT else pipes))
        for name in [name for name in sys.modules if name.startswith(f"{__package__}.")]:
            del sys.modules[name]
        if code:
            filter_calls(code)
        status = _script(sources) if kind == SCRIPT else _serve(sources, requests, answers)
    finally:
        os._exit(status)


def close_all_but(*kept: int) -> None:
    """Closes every file of this process but these."""
    for descriptor in range(MAX_FILES):
        if descriptor not in kept:
            os.closerange(descriptor, descriptor + 1)


def _arrange(wanted: dict[int, int | None]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(wanted.get(descriptor) or nothing, descriptor)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _loaded(sources: Sequence[str], name: str) -> Any:
    """The module of that name, of the first of the sources that is Python at all."""
    module = type(sys)(name)
    module.__file__ = f"{name}.py"
    sys.modules[name] = module
    exec(_compiled(sources), module.__dict__)  # noqa: S102  # behind the walls: this is what they are for
    return module


def _compiled(sources: Sequence[str]) -> Any:
    first: Exception | None = None
    for source in sources:
        try:
            return compile(source, "program.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            first = first or error
    raise first or SyntaxError("no program")


def _script(sources: Sequence[str]) -> int:
    """The exit code of the program as __main__, with all that an interpreter does at its end."""
    status = 0
    try:
        _loaded(sources, "__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        status = 1
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status & 0xFF


def _serve(sources: Sequence[str], requests: int, answers: int) -> int:
    """Answers until nobody asks."""
    objects: list[Any] = []
    module: Any = None

    def keep(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    while True:
        named, asked = read_frame(requests), read_frame(requests)
        try:
            module = module or _loaded(sources, MODULE)
            found = _names(module, loads(named))
            classes = {name: kind for name, kind in found.items() if isinstance(kind, type)}
            what, restores, target, arguments, keywords = loads(asked, objects.__getitem__, classes)
            result = _OPERATIONS[what](module if target is None else target, *arguments, **keywords)
            after = (arguments, keywords) if restores else None
            said = dumps((True, result, after), keep, classes)
        except BaseException as error:
            said = dumps((False, [kind.__name__ for kind in type(error).__mro__], str(error)[:1000]))
        write_all(answers, frame(said))


def _names(module: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


def _items(value: Any) -> list[Any]:
    items: list[Any] = []
    for item in value:
        if len(items) >= MAX_ITEMS:
            raise OverflowError(f"more than {MAX_ITEMS} items")
        items.append(item)
    return items


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "names": _names,
    "call": lambda target, *arguments, **keywords: target(*arguments, **keywords),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "items": _items,
    "len": len,
    "str": str,
}
