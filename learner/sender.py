"""Hands the weights in the learner's memory to each engine that asks: the learner's end of `broker.weights: direct`.

Each engine has a thread, a line and a channel of its own (areal.transfer). Those take a version at their own pace; one that
hangs or dies loses these, and keeps neither the learner nor another engine waiting.
"""

import contextlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterable

from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from ..broker.errors import BrokerError
from ..broker.lifetime import STUCK
from ..broker.transport import Depot
from ..transfer.channel import LEARNER, Channel, Seat, backend_for, entries_of
from ..transfer.line import Ask, Hello, Line, Manifest, Welcome
from .muster import listening

logger = logging.getLogger(__name__)

HELLO_S = 5.0
"""How long a stranger may take to show the token."""

SAY_S = 30.0
LEAVE_S = 5.0
AGAIN_S = 0.5
MAX_LINES = 512
"""Engines and strangers together; more are turned away."""


class Sender:
    """Holds the newest version, and listens at the address by which the learner's host is known."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._token = secrets.token_urlsafe(16)
        self._held: dict[str, dict[str, Tensor]] = {}
        self._store = listening(host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._room = threading.BoundedSemaphore(MAX_LINES)
        self._lines: dict[threading.Thread, Line] = {}
        self._is_closed = False
        self._accepting = threading.Thread(target=self._accept, name="sender", daemon=True)
        self._accepting.start()

    def depot(self, epoch: int) -> Depot:
        """Where this is."""
        return Depot(epoch, self._host, self._listener.getsockname()[1], self._token)

    def hold(self, name: str, tensors: dict[str, Tensor]) -> int:
        """Keep tensors that nobody changes until a newer version is kept; the digest of their list."""
        self._held[name] = tensors
        return Manifest(tensors=entries_of(tensors)).digest

    def holds(self, name: str) -> bool:
        return name in self._held

    def keep_newest(self, names: Iterable[str]) -> None:
        """Let go of all but the newest of these; one that is on its way is let go once it has arrived."""
        newest = max(self._held.keys() & set(names), default=None)
        self._held = {name: held for name, held in self._held.items() if name == newest}

    def close(self) -> None:
        """Hang up on everyone, and wait until they are seen off: a channel that is open as the process ends aborts it.

        A thread that still waits for an engine after LEAVE_S is left alone; see STUCK.
        """
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(LEAVE_S)
        attending, deadline = list(self._lines.items()), time.monotonic() + LEAVE_S
        for _, line in attending:
            line.close()
        for thread, _ in attending:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                line = Line(self._listener.accept()[0])
                if self._room.acquire(blocking=False):
                    threading.Thread(target=self._attend, args=(line,), name=STUCK, daemon=True).start()
                else:
                    line.close()
            except OSError as error:
                if not self._is_closed:  # too many files are open, say
                    logger.warning("a line for weights could not be opened: %s", error)
                    time.sleep(AGAIN_S)

    def _attend(self, line: Line) -> None:
        """Serve one engine until either end hangs up."""
        self._lines[threading.current_thread()] = line
        try:
            if self._is_closed:  # it came in between
                return
            hello = line.hear(Hello, timeout_s=HELLO_S)
            if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
                raise BrokerError("it does not know the token")
            self._serve(line, hello)
        except BrokerError as error:
            logger.info("a line for weights ends: %s", error)
        except Exception:  # whatever is wrong with one engine must not be the others'
            logger.exception("a line for weights ends")
        finally:
            line.close()
            self._lines.pop(threading.current_thread())
            self._room.release()

    def _serve(self, line: Line, hello: Hello) -> None:
        channel = self._meet(line, hello)
        try:
            while True:
                name = line.hear(Ask, timeout_s=None).name
                tensors = self._held.get(name)
                entries = None if tensors is None else entries_of(tensors)
                line.say(Manifest(tensors=entries), timeout_s=SAY_S)
                if tensors is not None and entries is not None:
                    channel.send(tensors, entries)
        finally:
            line.close()  # first, as the channel may wait for what is under way
            channel.close()

    def _meet(self, line: Line, hello: Hello) -> Channel:
        prefix, backend = secrets.token_urlsafe(16), backend_for(hello.devices)
        store: Store = PrefixStore(prefix, self._store)
        line.say(Welcome(backend=backend, port=self._store.port, prefix=prefix), timeout_s=SAY_S)
        seat = Seat(LEARNER, 1 + len(hello.devices), backend, self._host)
        return Channel(store, seat, check=line.require_open)
