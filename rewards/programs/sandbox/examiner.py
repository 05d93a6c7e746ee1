"""What pid 1 does with the tests: it asks the program, or has a test ask it, and says what came of each.

The tests that are code run here and never where the program runs: what they call is a stand-in (Remote), which has the
program do it and gives them a plain value, their own copy. So nothing that the program is, prints, patches or overloads can
pass a test but the value that the test wants.
"""

from __future__ import annotations

import builtins
import sys

from .pipes import Ended
from .program import SCRIPT, SERVE
from .values import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .spawner import Spawner

ASSERTS, SCRIPTS, CALLS = "asserts", "scripts", "calls"


class Unsound(BaseException):
    """A test that cannot be had, whatever the program: the data's fault."""


class Session:
    """The program as those see it who ask it things; a fresh one after it has ended."""

    def __init__(self, spawner: Spawner, deadline: float) -> None:
        self._spawner, self._deadline = spawner, deadline
        self._life = 0
        self.classes: dict[str, type] = {}

    def ask(self, what: str, target: Any, *arguments: Any, restores: bool = False, **keywords: Any) -> Any:
        """What the program answers, or the exception that it answers with. `restores` what it changed in its arguments."""
        if not self._spawner.running:
            self._spawner.start(SERVE, self._deadline)
            self._life += 1
        self._spawner.send(dumps(list(self.classes)), self._deadline)
        asked = dumps((what, restores, target, arguments, keywords), self._number, self.classes)
        self._spawner.send(asked, self._deadline)
        try:
            holds, *said = loads(self._spawner.receive(self._deadline), self._remote, self.classes)
            if not holds:
                raise _raised(*said)
            result, after = said
        except ValueError as error:
            if getattr(error, "from_program", False):
                raise
            raise Ended from error
        if restores:
            _restore((arguments, keywords), after)
        return result

    def answer(self, what: str, target: Any, *arguments: Any) -> bytes:
        """The answer as it came, for one who asked without classes or restoring."""
        self._spawner.send(dumps([]), self._deadline)
        self._spawner.send(dumps((what, False, target, arguments, {}), self._number), self._deadline)
        return self._spawner.receive(self._deadline)

    def _remote(self, number: int) -> Remote:
        return Remote(self, self._life, number)

    def _number(self, value: Any) -> int:
        if not isinstance(value, Remote):
            raise Unsound(f"it hands the program an object of class {type(value).__name__}, which cannot go there")
        _, life, number = _parts(value)
        if life != self._life or not self._spawner.running:
            raise Ended
        return number


class Remote:
    """Something of the program's that is no plain data. Equal to nothing but itself, since the program must not judge."""

    __slots__ = ("_of",)

    def __init__(self, session: Session, life: int, number: int) -> None:
        object.__setattr__(self, "_of", (session, life, number))

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return _parts(self)[0].ask("call", self, *arguments, restores=True, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _parts(self)[0].ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _parts(self)[0].ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return _parts(self)[0].ask("getitem", self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(_parts(self)[0].ask("items", self))

    def __len__(self) -> int:
        return int(_parts(self)[0].ask("len", self))

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return str(_parts(self)[0].ask("str", self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and _parts(self) == _parts(other)

    def __hash__(self) -> int:
        return hash(_parts(self)[1:])


def _parts(remote: Remote) -> tuple[Session, int, int]:
    parts: tuple[Session, int, int] = object.__getattribute__(remote, "_of")
    return parts


def _raised(names: Sequence[str], message: str) -> Exception:
    """The nearest of Python's own exceptions: those of the program's own classes are not known here."""
    known = (getattr(builtins, str(name), None) for name in names)
    kind = next((each for each in known if isinstance(each, type) and issubclass(each, Exception)), None)
    if kind is None:
        raise Ended
    try:
        error = kind(message)
    except TypeError:
        error = Exception(message)
    error.from_program = True  # type: ignore[attr-defined]
    return error


def _restore(before: tuple[Sequence[Any], dict[str, Any]], after: Any) -> None:
    """Has the caller's lists, dicts and sets hold what the program left in its copies of them."""
    changed = [*zip(before[0], after[0]), *((before[1][name], after[1][name]) for name in before[1])]  # noqa: B905
    for mine, theirs in changed:
        if isinstance(mine, (list, bytearray)) and isinstance(theirs, type(mine)):
            mine[:] = theirs
        elif isinstance(mine, (dict, set)) and isinstance(theirs, (dict, set)):
            mine.clear()
            mine.update(theirs)


def examine(spawner: Spawner, style: str, tests: Any, deadline: float) -> Iterator[Any]:
    """What came of each test in turn: of asserts whether it held, of the others what was answered, None if nothing was.

    Raises OutOfTime, and Unsound.
    """
    if style == SCRIPTS:
        for given in tests:
            yield _output(spawner, given, deadline)
    elif style == CALLS:
        name, calls = tests
        session = Session(spawner, deadline)
        for arguments in calls:
            yield _called(session, name, arguments)
    else:
        setup, asserts = tests
        parts = [_Part(source, lenient) for source, lenient in setup]
        for tested, test in [(tested, _Part(source, False)) for tested, source in asserts]:
            yield _holds(Session(spawner, deadline), parts, tested, test)


def _output(spawner: Spawner, given: str, deadline: float) -> Any:
    try:
        spawner.start(SCRIPT, deadline)
        spawner.send(given.encode("utf-8", "surrogatepass"), deadline)
        status, written = spawner.output(deadline)
    except Ended:
        return None
    return written if status == 0 else None


def _called(session: Session, name: str, arguments: Sequence[Any]) -> Any:
    """The program's answer as bytes, of its function of this name or of its Solution's method."""
    try:
        found = session.ask("names", None, [name, "Solution"])
        if not isinstance(found, dict):
            return None
        target = found.get(name)
        if target is None and isinstance(found.get("Solution"), Remote):
            target = getattr(found["Solution"](), name)
        return session.answer("call", target, *arguments) if isinstance(target, Remote) else None
    except (Exception, Ended):
        return None


class _Part:
    """Code of a test. A lenient part may be no Python, or fail: of a prompt, which may be prose."""

    def __init__(self, source: str, lenient: bool) -> None:
        self.source, self.lenient = source, lenient
        self.code: Any = None
        try:
            self.code = compile(source, "test.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            if not lenient:
                raise Unsound(f"it is not Python: {error}") from error

    def run(self, session: Session, names: dict[str, Any]) -> None:
        """In a module of these names, which get what else the code speaks of."""
        if self.code is None:
            return
        try:
            for name in _free(self.code):
                if name in sys.stdlib_module_names and name not in names and f"{name}." in self.source:
                    names[name] = __import__(name)
            _bind(
                session, names, [name for name in _free(self.code) if name not in names and not hasattr(builtins, name)]
            )
            exec(self.code, names)  # noqa: S102  # the data's code, behind the walls, too
        except Exception:
            if not self.lenient:
                raise


def _free(code: Any) -> set[str]:
    """All names in the code that may be global."""
    nested = [const for const in code.co_consts if isinstance(const, type(code))]
    return set(code.co_names).union(*(_free(each) for each in nested))


def _bind(session: Session, names: dict[str, Any], wanted: Sequence[str]) -> None:
    """Gives these names what the program has under them."""
    found = session.ask("names", None, list(wanted)) if wanted else {}
    names.update({name: found[name] for name in wanted if name in found} if isinstance(found, dict) else {})


def _bind_tested(session: Session, names: dict[str, Any], tested: Sequence[str]) -> None:
    """Gives these names what the program has under them; raises NameError where Python would stand in for it."""
    found: dict[str, Any] = {}
    _bind(session, found, tested)
    for name in tested:
        if name not in found and hasattr(builtins, name):
            raise NameError(f"the program defines no {name}")
    names.update(found)


def _holds(session: Session, setup: Sequence[_Part], tested: Sequence[str], test: _Part) -> bool:
    """Whether the test ends without an exception, after its setup, in a fresh module.

    The program's are the names that the test has from nowhere else, and those `tested`, though Python has them, too.
    """
    module = type(sys)("test")
    sys.modules["test"] = module
    try:
        for part in setup:
            part.run(session, module.__dict__)
        session.classes = {
            name: kind
            for name, kind in vars(module).items()
            if isinstance(kind, type) and kind.__module__ == "test" and not issubclass(kind, (Exception, tuple))
        }
        _bind_tested(session, module.__dict__, tested)
        test.run(session, module.__dict__)
    except (Exception, Ended, SystemExit):
        return False
    return True
