"""What signals tell a driver: Ctrl-C and SIGTERM, once or twice, and the loss of its terminal."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .hangup import HANGUP, leave_terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """How often it was interrupted, and whether its terminal is gone, which counts as once.

    The second interrupt raises KeyboardInterrupt where it comes.
    """

    def __init__(self, log: Path) -> None:
        """log: where goes what is printed once there is no terminal."""
        self._log = log
        self._signals: Sequence[signal.Signals] = ()
        self.count = 0
        self.hung_up = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Meanwhile signals are heard; under nohup that of a lost terminal is not."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._signals = [number for number in SIGNALS if number != HANGUP or before[number] is not signal.SIG_IGN]
        self.hear()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hear(self) -> None:
        """Once more, where somebody else has taken them meanwhile."""
        for number in self._signals:
            signal.signal(number, self._on_signal)

    def ask(self) -> None:
        """As a first Ctrl-C; nothing where there was one."""
        self.count = max(self.count, 1)

    def _on_signal(self, number: int, frame: object) -> None:
        """Does little, as it may run in the middle of anything."""
        if number == HANGUP:  # which may come twice, from the shell and from the kernel
            self.hung_up = True
            self.ask()
            leave_terminal(self._log)
            return
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
