"""What a role logs and its driver shows."""

import logging
from typing import Any

import pytest

from areal.broker.bulletin import TOLD
from areal.launch.driver.herald import MAX_PER_WINDOW, WINDOW_S, Herald

from ..fake_driver import until


class Board:
    """Where events are posted, in order."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refuses = False
        self.refused = 0

    def report(self, event: dict[str, Any]) -> None:
        if self.refuses:
            self.refused += 1
            raise RuntimeError("no Redis")
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.events]


@pytest.fixture
def board() -> Board:
    return Board()


class Role:
    """What logs, at the time that a test sets."""

    def __init__(self, board: Board, level: str = "warning") -> None:
        self.herald = Herald("rollout-0", board.report, level=level)
        self.now = 1000.0

    def log(self, level: int, text: str, *arguments: object, **extra: object) -> None:
        told = {"levelno": level, "levelname": logging.getLevelName(level), "msg": text, "args": arguments}
        record = logging.makeLogRecord(told | {"created": self.now} | extra)
        if level >= self.herald.level:  # as a logger has it
            self.herald.handle(record)


def test_what_is_of_the_level_or_above_is_told(board: Board) -> None:
    role = Role(board)
    role.log(logging.INFO, "not this")
    role.log(logging.WARNING, "said elsewhere", **TOLD)
    role.log(logging.WARNING, "redis is %s\nand more", "slow")
    role.log(logging.CRITICAL, "out of %s", "memory", "and", "arguments")
    until(lambda: len(board.events) == 2)
    assert board.texts == ["rollout-0: redis is slow", "rollout-0: out of %s"]
    assert [(event["kind"], event["level"]) for event in board.events] == [("event", "warning"), ("event", "error")]


def test_info_is_told_where_it_is_wanted(board: Board) -> None:
    Role(board, "info").log(logging.INFO, "this too")
    until(lambda: board.texts == ["rollout-0: this too"])


def test_a_flood_is_cut_and_said_to_be(board: Board) -> None:
    role = Role(board)
    for number in range(MAX_PER_WINDOW + 30):
        role.log(logging.WARNING, "%d", number)
    until(lambda: len(board.events) == MAX_PER_WINDOW)
    role.now += WINDOW_S + 0.1
    role.log(logging.WARNING, "at last")
    until(lambda: len(board.events) == MAX_PER_WINDOW + 1)
    assert board.texts[-1] == "rollout-0: at last (30 more are in its log)"


def test_a_redis_that_is_away_ends_nothing(board: Board) -> None:
    role = Role(board)
    board.refuses = True
    role.log(logging.WARNING, "lost")
    until(lambda: board.refused)
    board.refuses = False
    role.log(logging.WARNING, "found")
    until(lambda: board.texts == ["rollout-0: found"])
