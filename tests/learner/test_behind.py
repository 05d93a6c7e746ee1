import threading

import pytest

from areal.broker.errors import DeadlineExceeded
from areal.learner.behind import Behind


def test_one_thing_is_done_after_another() -> None:
    behind, may_go, seen = Behind("a file", timeout_s=10), threading.Event(), []
    assert behind.idle

    def first() -> None:
        assert may_go.wait(10)
        seen.append("first")

    behind.begin(first)
    second = behind.begin(seen.append, "second")
    assert not behind.idle and seen == []
    may_go.set()
    behind.wait_for(second)
    behind.wait()
    assert behind.idle and seen == ["first", "second"]


def test_what_went_wrong_first_is_raised_wherever_one_looks() -> None:
    behind = Behind("a file", timeout_s=10)
    behind.wait()
    behind.check()

    def fails(text: str) -> None:
        raise TimeoutError(text)  # of the file system, and no sign that this one waited too long

    last = [behind.begin(fails, "first"), behind.begin(fails, "second")][-1]
    behind.wait_for(last)
    for look in (behind.check, behind.wait, behind.wait):
        with pytest.raises(TimeoutError, match="first"):
            look()


def test_what_takes_too_long_is_not_waited_for() -> None:
    behind, may_go = Behind("a file", timeout_s=0.05), threading.Event()
    behind.begin(may_go.wait, 10)
    with pytest.raises(DeadlineExceeded, match=r"a file was not written within 0.05 s"):
        behind.wait()
    may_go.set()
