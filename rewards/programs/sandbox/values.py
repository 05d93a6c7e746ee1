"""Python values as bytes, between processes that do not trust each other: never pickle, nothing runs when they are read.

    i4:-2a       a node: a letter, the number of bytes, a colon, the bytes
    l5:1 2 2     a container names its children by their place among the nodes; the first node is the value

A value is flat, so that none is nested too deeply to be read, and lists, sets, dicts and objects may occur in each other
more than once, or in themselves. An object travels as the name of its class, which both sides have to know, and its
attributes; whatever is not plain data stays where it is and travels as a number (see `keep`).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

MAX_NODES = 4_000_000
_CONSTANTS: dict[str, Any] = {"N": None, "T": True, "F": False, "E": ..., "U": NotImplemented}
_KINDS: dict[str, Any] = {"l": list, "t": tuple, "e": set, "z": frozenset}
_BY_TEXT = {"decimal": ("Decimal",), "fractions": ("Fraction",)}
_BY_FORMAT = {"datetime": ("datetime", "date", "time")}


def dumps(value: Any, keep: Callable[[Any], int] | None = None, classes: Mapping[str, type] | None = None) -> bytes:
    """The value as bytes. `keep` gives the number of an object that is no plain data, or raises; without it, TypeError.

    `classes` are those whose objects go by name and attributes.
    """
    nodes: list[bytes] = []
    todo: list[tuple[int, Any]] = []
    places: dict[int, tuple[int, Any]] = {}  # with the object, lest another gets its id

    def place(child: Any) -> int:
        shared = isinstance(child, (list, dict, set)) or type(child) in known
        if shared and id(child) in places:
            return places[id(child)][0]
        index = len(nodes)
        if index >= MAX_NODES:
            raise ValueError(f"a value of more than {MAX_NODES} parts")
        nodes.append(b"")
        todo.append((index, child))
        if shared:
            places[id(child)] = index, child
        return index

    known = {each: name for name, each in (classes or {}).items()}
    place(value)
    while todo:
        index, each = todo.pop()
        letter, body = _node(each, place, keep, known)
        nodes[index] = b"%s%d:%s" % (letter.encode(), len(body), body)
    return b"".join(nodes)


def _node(
    value: Any, place: Callable[[Any], int], keep: Callable[[Any], int] | None, known: Mapping[type, str]
) -> tuple[str, bytes]:
    for letter, constant in _CONSTANTS.items():
        if value is constant:
            return letter, b""
    name = known.get(type(value))
    if name is not None:
        return "o", b"%s %d" % (name.encode("utf-8"), place(_attributes(value)))
    if isinstance(value, dict):
        return "d", _places(place(each) for pair in dict.items(value) for each in pair)
    for letter, kind in _KINDS.items():
        if isinstance(value, kind):
            return letter, _places(place(each) for each in kind.__iter__(value))
    plain = _plain(value)
    if plain is not None:
        return plain
    if keep is None:
        raise TypeError(f"an object of class {type(value).__name__} is no plain data")
    return "k", b"%d" % keep(value)


def _plain(value: Any) -> tuple[str, bytes] | None:
    """The node of what has no children."""
    if isinstance(value, str):
        return "s", str.encode(value, "utf-8", "surrogatepass")
    if isinstance(value, int):
        return "i", b"%x" % int(value)
    if isinstance(value, float):
        return "f", float.__repr__(value).encode()
    if isinstance(value, complex):
        return "c", f"{value.real!r} {value.imag!r}".encode()
    if isinstance(value, (bytes, bytearray)):
        return "b" if isinstance(value, bytes) else "a", bytes(value)
    if isinstance(value, range):
        return "r", b"%x %x %x" % (value.start, value.stop, value.step)
    for letter, table in (("x", _BY_TEXT), ("y", _BY_FORMAT)):
        for module, names in table.items():
            kind = type(value)
            if kind.__name__ in names and kind is getattr(sys.modules.get(module), kind.__name__, None):
                text = str(value) if letter == "x" else value.isoformat()
                return letter, f"{module} {kind.__name__} {text}".encode()
    return None


def _attributes(value: Any) -> dict[str, Any]:
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    return {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    names = kind.__dict__.get("__slots__", ())
    listed = (names,) if isinstance(names, str) else tuple(names)
    return tuple(name for name in listed if name not in ("__dict__", "__weakref__"))


def _places(children: Any) -> bytes:
    return b" ".join(b"%d" % child for child in children)


def loads(data: bytes, kept: Callable[[int], Any] | None = None, classes: Mapping[str, type] | None = None) -> Any:
    """The value in these bytes; raises ValueError for what is none.

    `kept` gives the object behind a number, of what was no plain data where it came from.
    """
    try:
        return _built(_split(data), kept, classes or {})
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, ImportError) as error:
        raise ValueError(f"no value: {error!r:.200}") from error


def _split(data: bytes) -> list[tuple[str, bytes]]:
    nodes, at = [], 0
    while at < len(data):
        colon = data.index(b":", at, at + 16)
        end = colon + 1 + int(data[at + 1 : colon])
        if not colon < end <= len(data):
            raise ValueError("a node that ends after the value, or before itself")
        nodes.append((chr(data[at]), data[colon + 1 : end]))
        at = end
    if not 0 < len(nodes) <= MAX_NODES:
        raise ValueError(f"a value of {len(nodes)} parts")
    return nodes


def _built(nodes: list[tuple[str, bytes]], kept: Callable[[int], Any] | None, classes: Mapping[str, type]) -> Any:
    """First what can hold itself, empty; then what cannot, from the last node on; then the former are filled."""
    made: dict[int, Any] = {}
    children: dict[int, list[int]] = {}
    for index, (letter, body) in enumerate(nodes):
        if letter in "tzled":
            children[index] = [int(place) for place in body.split()]
        if letter in "led":
            made[index] = {} if letter == "d" else _KINDS[letter]()
        elif letter == "o":
            name, place = body.decode("utf-8").split(" ")
            made[index] = object.__new__(classes[name])
            children[index] = [int(place)]
    for index in range(len(nodes) - 1, -1, -1):
        letter, body = nodes[index]
        if letter in "tz":
            made[index] = _KINDS[letter](made[child] for child in children[index])
        elif index not in made:
            made[index] = _leaf(letter, body, kept)
    for wanted in "ldoe":  # a set hashes its members, so they come to be whole before it
        for index, places in children.items():
            if nodes[index][0] == wanted:
                _fill(made[index], wanted, [made[place] for place in places])
    return made[0]


def _fill(container: Any, letter: str, children: list[Any]) -> None:
    if letter == "l":
        container.extend(children)
    elif letter == "e":
        container.update(children)
    elif letter == "d":
        container.update(zip(children[::2], children[1::2]))  # noqa: B905  # an odd one is left over
    else:
        for name, value in dict(children[0]).items():
            object.__setattr__(container, name, value)


def _leaf(letter: str, body: bytes, kept: Callable[[int], Any] | None) -> Any:
    if letter in _CONSTANTS:
        return _CONSTANTS[letter]
    if letter in "ba":
        return bytes(body) if letter == "b" else bytearray(body)
    if letter == "s":
        return body.decode("utf-8", "surrogatepass")
    if letter == "i":
        return int(body, 16)
    if letter == "f":
        return float(body)
    if letter == "c":
        return complex(*(float(part) for part in body.split()))
    if letter == "r":
        return range(*(int(part, 16) for part in body.split()))
    if letter == "k" and kept is not None:
        return kept(int(body))
    if letter in "xy":
        return _told(letter, *body.decode().split(" ", 2))
    raise ValueError(f"an unknown letter {letter!r}")


def _told(letter: str, module: str, name: str, text: str) -> Any:
    if name not in (_BY_TEXT if letter == "x" else _BY_FORMAT)[module]:
        raise ValueError(f"an unknown class {module}.{name}")
    if name == "Fraction" and not set(text) <= set("-/0123456789"):  # "1e999999999" would be worked out
        raise ValueError(f"a fraction {text!r:.50}")
    kind: Any = getattr(__import__(module), name)
    return kind(text) if letter == "x" else kind.fromisoformat(text)
