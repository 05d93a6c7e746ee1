"""`areal dead`: what could not be done, shown, and tried again or dropped.

Letters are read a page at a time and none is kept, so that thousands of them need no more memory than a few.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ...broker.dead import DeadLetters
from ...broker.errors import ArealError
from ...broker.keys import EVAL, TRAIN
from ...broker.lane import Lane
from ..control.locate import Located
from ..screen import Screen, Table, plural, to_json
from .letter import Found, payload_of, put_letter, record_of, row_of
from .tally import Record

PAGE = 64
ENTRY = re.compile(r"\d{1,18}-\d{1,18}")


def show_list(run: Located, lanes: Sequence[str], *, as_json: bool) -> int:
    """Print a line for each letter, the oldest of each lane first."""
    if as_json:
        return _print_json({"run": run.name} | record_of(found) for found in _all(run, lanes))
    screen = Screen()
    table = Table(screen, "entry", "lane", ">position", "from", ">attempts", "worker", "when", "cause")
    counted = dict.fromkeys(lanes, 0)
    for page in _pages(run, lanes):
        table.put(row_of(found) for found in page)
        counted[page[0].lane] += len(page)
    screen.put(_total(run, counted))
    return 0


def show(run: Located, lanes: Sequence[str], names: Sequence[str], *, as_json: bool) -> int:
    """Print all there is to know of the letters that are named."""
    letters = ((found, _payload(run, found)) for found in _each(run, _chosen(run, lanes, names)))
    if as_json:
        return _print_json({"run": run.name} | record_of(found) | {"payload": died} for found, died in letters)
    screen = Screen()
    for found, died in letters:
        put_letter(screen, found, died)
    return 0


def retry(run: Located, lanes: Sequence[str], names: Sequence[str]) -> int:
    """Have the letters that are named, or all of the training lane's, tried again."""
    chosen = _chosen(run, lanes, names) if names else None
    for lane, entry in chosen or []:
        if lane == EVAL:
            raise ArealError(
                f"{entry} is of the evaluation lane: its round is over, so that it can only be dropped. Nothing was done"
            )
    if not names and TRAIN not in lanes:
        raise ArealError(
            "the letters of the evaluation lane cannot be tried again, as their rounds are over: drop them"
        )
    dead = DeadLetters(run.client, run.key, TRAIN)
    found = _each(run, chosen) if chosen else _present(run, [TRAIN])
    done = sum(dead.retry([each.letter]) for each in found)
    screen = Screen()
    if done:
        under_way = any(not heard.silent for heard in run.roll())
        when = "as soon as the learner has room" if under_way else "when the run is next started"
        screen.put(f"{plural(done, 'dead letter')} of {run.name} will be tried again, {when}")
    _put_missed(screen, done, chosen)
    left = Lane(run.client, run.key, EVAL).depth().dead
    if not names and left and EVAL in lanes:
        screen.put((f"{plural(left, 'letter')} of the evaluation lane stayed: their rounds are over; drop them", "dim"))
    return 0


def drop(run: Located, lanes: Sequence[str], names: Sequence[str]) -> int:
    """Forget the letters that are named, or all."""
    chosen = _chosen(run, lanes, names) if names else None
    done = 0
    for found in _each(run, chosen) if chosen else _present(run, lanes):
        done += DeadLetters(run.client, run.key, found.lane).drop([found.letter])
    screen = Screen()
    if done:
        theirs = "its position is" if done == 1 else "their positions are"
        screen.put(f"{plural(done, 'dead letter')} of {run.name} dropped; {theirs} never issued again")
    _put_missed(screen, done, chosen)
    return 0


# Reading


def _pages(run: Located, lanes: Iterable[str]) -> Iterator[list[Found]]:
    for lane in lanes:
        dead, after = DeadLetters(run.client, run.key, lane), "-"
        while page := dead.list(after, count=PAGE):
            yield [Found(lane, letter) for letter in page]
            after = page[-1].entry


def _all(run: Located, lanes: Iterable[str]) -> Iterator[Found]:
    return (found for page in _pages(run, lanes) for found in page)


def _present(run: Located, lanes: Iterable[str]) -> Iterator[Found]:
    """The letters that are there now, without those that come to be, perhaps from these, as they are dealt with."""
    for lane in lanes:
        number = Lane(run.client, run.key, lane).depth().dead
        yield from islice(_all(run, [lane]), number)


def _chosen(run: Located, lanes: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Lane and entry of the one letter that each name is the entry of, or the beginning of. Raises ArealError."""
    matches: dict[str, list[tuple[str, str]]] = {name: _exact(run, lanes, name) for name in names}
    inexact = [name for name in names if not matches[name]]
    for found in _all(run, lanes) if inexact else ():
        for name in inexact:
            if name and found.letter.entry.startswith(name) and len(matches[name]) < 4:
                matches[name].append((found.lane, found.letter.entry))
    for name, those in matches.items():
        if not those:
            raise ArealError(f"{run.name} has no dead letter {name}: areal dead list {run.name} shows those there are")
        if len({entry for _, entry in those}) == 1 < len(those):
            raise ArealError(f"{name} is there in both lanes: say which with --lane train or --lane eval")
        if len(those) > 1:
            shown = ", ".join(entry for _, entry in those[:3]) + (", …" if len(those) > 3 else "")
            raise ArealError(f"{name} may be any of {shown}: give more of it")
    return list(dict.fromkeys(those[0] for those in matches.values()))


def _exact(run: Located, lanes: Sequence[str], name: str) -> list[tuple[str, str]]:
    if not ENTRY.fullmatch(name):
        return []
    return [(lane, name) for lane in lanes if DeadLetters(run.client, run.key, lane).get(name) is not None]


def _each(run: Located, chosen: Iterable[tuple[str, str]]) -> Iterator[Found]:
    """The letters of these entries, one at a time; those that have gone meanwhile are left out."""
    for lane, entry in chosen:
        letter = DeadLetters(run.client, run.key, lane).get(entry)
        if letter is not None:
            yield Found(lane, letter)


def _payload(run: Located, found: Found) -> Record:
    return payload_of(found, DeadLetters(run.client, run.key, found.lane).payload(found.letter))


def _print_json(records: Iterable[Record]) -> int:
    for record in records:
        print(to_json(record))
    return 0


def _total(run: Located, counted: dict[str, int]) -> str:
    total = sum(counted.values())
    if not total:
        return f"{run.name} has no dead letters"
    some = f", {counted[EVAL]:,} of the evaluation lane" if counted.get(EVAL) else ""
    return f"\n{plural(total, 'dead letter')}{some}; areal dead show {run.name} ENTRY tells all of one"


def _put_missed(screen: Screen, done: int, chosen: Sequence[object] | None) -> None:
    if chosen is not None and done < len(chosen):
        screen.put(f"{plural(len(chosen) - done, 'letter')} had gone meanwhile")
    elif chosen is None and not done:
        screen.put("there were none")
