"""What goes on behind training, in a thread of its own: one thing after another."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from ..broker.errors import DeadlineExceeded

T = TypeVar("T")


class Behind:
    """A thread that writes. What went wrong there first is raised wherever somebody looks, from any thread."""

    def __init__(self, what: str, *, timeout_s: float) -> None:
        """`what` is written, as an error names it: "a checkpoint"; it should not take longer than `timeout_s`."""
        self._what = what
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=what.replace(" ", "-"))
        self._last: Future[Any] | None = None
        self._error: BaseException | None = None

    @property
    def idle(self) -> bool:
        """Whether all that was begun has ended."""
        return self._last is None or self._last.done()

    def begin(self, write: Callable[..., T], *given: Any) -> Future[T]:
        """Have this done after all that was begun before."""
        self._last = future = self._thread.submit(self._do, write, *given)
        return future

    def check(self) -> None:
        """Raise what has gone wrong up to now."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until all that was begun has ended; raises what went wrong, or DeadlineExceeded."""
        if self._last is not None:
            self.wait_for(self._last)
        self.check()

    def wait_for(self, future: Future[Any]) -> None:
        """Until this has ended, well or not; raises DeadlineExceeded."""
        if not wait([future], self._timeout_s).done:
            raise DeadlineExceeded(f"{self._what} was not written within {self._timeout_s:g} s")

    def _do(self, write: Callable[..., T], *given: Any) -> T:
        try:
            return write(*given)
        except BaseException as error:
            self._error = self._error or error
            raise
