"""A proxy between each role and Redis that drops connections in the middle of a message, or lets none through.

`python -m tests.chaos.proxy` reads JSON lines from standard input: first {"redis": port, "roles": [names], "journal":
path}, which it answers with {role: port}, then an Order each.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from areal.broker.lifetime import begin_child

from .journal import Cut, Journal
from .settings import ROOT

CHUNK_BYTES = 65_536
REQUEST, REPLY = "request", "reply"


@dataclass(frozen=True, slots=True)
class Order:
    """Cut `role` in the middle of its next request or reply (`way`), or keep it out for `closed_s`."""

    role: str
    way: str = ""
    closed_s: float = 0.0


class Proxy:
    """The proxy's process, as the harness holds it."""

    def __init__(self, redis_port: int, roles: tuple[str, ...], journal: Path, log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.proxy"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=ROOT,
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )
        self._send({"redis": redis_port, "roles": roles, "journal": str(journal)})
        assert self.process.stdout is not None
        self.ports: dict[str, int] = json.loads(self.process.stdout.readline())

    def order(self, order: Order) -> None:
        self._send(asdict(order))

    def _send(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()


@dataclass(slots=True)
class Link:
    """The way of one role to Redis."""

    role: str
    redis_port: int
    journal: Journal
    cut: str = ""
    open_at: float = 0.0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes until either side ends, or the link is cut."""
        if asyncio.get_running_loop().time() < self.open_at:
            return writer.transport.abort()
        try:
            redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self.redis_port)
        except OSError:
            return writer.transport.abort()
        both = {writer, redis_writer}
        self.writers |= both
        pumps = [
            asyncio.create_task(self._pump(reader, redis_writer, REQUEST)),
            asyncio.create_task(self._pump(redis_reader, writer, REPLY)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.writers -= both
            for one in both:
                one.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    def obey(self, order: Order) -> None:
        if order.closed_s:
            self.open_at = asyncio.get_running_loop().time() + order.closed_s
            for writer in list(self.writers):
                writer.transport.abort()
        self.cut = order.way or self.cut

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self.cut == way and len(data) > 1:
                    self.cut = ""
                    writer.write(data[: len(data) // 2])
                    self.journal.write(Cut(self.role, way, len(data) // 2, len(data)))
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    told = json.loads(await lines.readline())
    journal = Journal(Path(told["journal"]))
    links = {role: Link(role, told["redis"], journal) for role in told["roles"]}
    servers = {role: await asyncio.start_server(link.serve, "127.0.0.1", 0) for role, link in links.items()}
    print(json.dumps({role: server.sockets[0].getsockname()[1] for role, server in servers.items()}), flush=True)
    while line := await lines.readline():
        order = Order(**json.loads(line))
        links[order.role].obey(order)


if __name__ == "__main__":
    asyncio.run(main())
