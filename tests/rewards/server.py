"""A server with the API of OpenAI on a port of its own, in a thread; what it says is up to the test."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


class Server(ThreadingHTTPServer):
    """Says `says(request)`, each time after `delay_s`; the first of its answers are those of `failures`: status and headers."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model: str, says: Callable[[dict[str, Any]], str | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.says = model, says
        self.asked: list[dict[str, Any]] = []
        self.asked_at: list[float] = []
        self.keys: set[str] = set()
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.finish_reason = "stop"
        self.usage: Any = USAGE
        self.delay_s = 0.0
        self.most_at_once = 0
        self.released = threading.Event()
        self._at_once = 0
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        with self._guard:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.released.wait(self.delay_s)
        try:
            yield
        finally:
            with self._guard:
                self._at_once -= 1

    def handle_error(self, *_: Any) -> None:
        """Whoever asked may be gone, killed at its deadline."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        served = {"id": self.server.model, "object": "model", "created": 0, "owned_by": "x"}
        self._answer(200, {"object": "list", "data": [served]})

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers["Authorization"])
        self.server.asked_at.append(time.monotonic())
        with self.server.busy():
            if self.server.failures:
                status, headers = self.server.failures.pop(0)
                return self._answer(status, {"error": {"message": "busy"}}, headers)
            self.server.asked.append(request)
            message = {"role": "assistant", "content": self.server.says(request)}
        choice = {"index": 0, "finish_reason": self.server.finish_reason, "message": message}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": self.server.model}
        self._answer(200, answer | {"choices": [choice], "usage": self.server.usage})

    def _answer(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, header in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, header)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(model: str, says: Callable[[dict[str, Any]], str | None]) -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server(model, says) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
