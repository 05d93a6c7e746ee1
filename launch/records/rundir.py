"""The folder that a run writes to.

    runs/<run>/  config.yaml      the resolved configuration of the newest invocation
                 metrics.jsonl    step, eval and final records, one a line
                 summary.json     what they add up to
                 reward.png       the same, drawn
                 driver.json      how the newest driver does, or how it ended (logbook.py)
                 checkpoints/  logs/  tensorboard/

One process holds it at a time. It can be read at any time, by anyone: lines are appended whole, and what is
replaced is written aside and renamed.
"""

import fcntl
import json
import logging
import math
import os
import shlex
import socket
import time
import uuid
from pathlib import Path
from typing import IO, Any, Self

from ...broker.errors import ArealError
from ...broker.folder import sync
from ...broker.server import is_locked
from .tally import Record

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
REDIS = "redis"
LOCK = ".lock"
DRIVER_LOG = "driver.log"
"""Among the logs of the roles: what a driver without a terminal prints."""

IDENTITY = ".id"
LOOK_S = 0.2
TAIL_BYTES = 2**19
KEPT_KINDS = ("step", "eval", "final")


def read_metrics(path: Path) -> list[Record]:
    """The records in a metrics.jsonl, oldest first; none if there is no such file.

    What follows the last newline is still being written, or was when its writer died, and is left out.
    """
    if not path.exists():
        return []
    records = []
    for index, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and "kind" in record:
            records.append(record)
        else:
            logger.warning("%s, line %d is no record and was left out", path, index)
    return records


def newest_record(path: Path, kind: str) -> Record | None:
    """The last record of a kind among those at the end of a metrics.jsonl; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:  # the first may be cut
            continue
        if isinstance(record, dict) and record.get("kind") == kind:
            return record
    return None


def read_summary(path: Path) -> Record:
    """A summary.json; empty if there is no such file."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArealError(f"{path} is not valid JSON ({error}): mend it or move it away") from error
    if not isinstance(summary, dict):
        raise ArealError(f"{path} holds {type(summary).__name__} where an object was wanted: move it away")
    return summary


def read_key(path: Path) -> str | None:
    """The name in Redis of the run whose folder this is; None if it has none yet. See RunDirectory.key."""
    return _key(path) if (path / IDENTITY).is_file() else None


def as_argument(path: Path) -> str:
    """How to name a run directory on the command line, from here: a name in runs/, or a path."""
    here, path = Path.cwd(), path.resolve()
    if path.parent == here / "runs":
        return shlex.quote(path.name)
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


class RunDirectory:
    """A run's folder, made or opened again, and locked until `close`.

    key: the run's name in Redis, which no other directory has, not one of the same name either.
    resumed: whether an earlier invocation left something here.
    earlier: the records that it left; a Tally takes them in again.
    invocations: what the worker records of earlier invocations came to, from summary.json.
    """

    def __init__(self, path: Path, *, config: str) -> None:
        """
        path: the folder.
        config: the resolved configuration, as YAML.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.tensorboard = path / "tensorboard"
        self.chart = path / "reward.png"
        try:
            for folder in (self.checkpoints, self.logs, self.tensorboard):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = hold(path)
        except OSError as error:
            raise ArealError(f"the run directory {path} cannot be made: {error}") from error
        try:
            self._open(config)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, config: str) -> None:
        self.resumed = (self.path / CONFIG).exists()
        _cut_torn_line(self.path / METRICS)
        self.earlier = read_metrics(self.path / METRICS)
        self.invocations: list[Record] = read_summary(self.path / SUMMARY).get("invocations", [])
        self.key = _key(self.path)
        replace(self.path / CONFIG, config)
        self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
        self._events = _Events(self.tensorboard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Keep a step, eval or final record; any other kind passes by."""
        if record["kind"] not in KEPT_KINDS:
            return
        self._metrics.write(_to_json(record) + "\n")
        self._metrics.flush()
        self._events.write(record)

    def write_summary(self, summary: Record) -> None:
        """Replace summary.json, so that a reader sees the old one or the new one."""
        replace(self.path / SUMMARY, _to_json(summary, indent=2) + "\n")

    def close(self) -> None:
        """Finish the files and give the folder free."""
        self._metrics.close()
        self._events.close()
        self._lock.close()


class _Events:
    """Scalars for TensorBoard, under learner/, reward/ and eval/, and grids of images; its writer is loaded with the first record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._epoch: int | None = None

    def write(self, record: Record) -> None:
        if record["kind"] not in ("step", "eval"):
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder), flush_secs=5)
        at = {"wall_time": record["time"], "step": record["step"]}
        if record["kind"] == "step" and record["epoch"] != self._epoch:
            # TensorBoard then drops what a learner that died had drawn from this step on.
            self._epoch = record["epoch"]
            self._writer.add_event(Event(session_log=SessionLog(status=SessionLog.START), **at))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(record).items()]
        if "pictures" in record:
            encoded = (self._folder.parent / record["pictures"]).read_bytes()
            values.append(Summary.Value(tag="eval/pictures", image=Summary.Image(encoded_image_string=encoded)))
        self._writer.add_event(Event(summary=Summary(value=values), **at))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _scalars(record: Record) -> dict[str, float]:
    role = "eval" if record["kind"] == "eval" else "learner"
    named = {f"{role}/{key}": value for key, value in record.items() if key not in ("time", "step", "steps")}
    named |= {f"reward/{key}": value for key, value in (record.get("reward_parts") or {}).items()}
    return {tag: float(value) for tag, value in named.items() if isinstance(value, int | float)}


def _key(path: Path) -> str:
    """The folder's name and what its file of identity says, which is written at the first call."""
    file = path / IDENTITY
    if not file.exists():
        replace(file, uuid.uuid4().hex[:12])
    return f"{path.resolve().name}-{file.read_text(encoding='utf-8').strip()}"


def hold(path: Path) -> IO[str]:
    """The lock file of a run directory, open: nobody else holds it until it is closed. Raises ArealError if one does.

    The kernel lets go of it when its holder ends, however it ends.
    """
    file = (path / LOCK).open("a+", encoding="utf-8")
    try:
        _take_lock(file)
    except BlockingIOError:
        file.close()
        raise ArealError(
            f"{path} is in use by {holder(path) or 'another process'}: wait for that run to end, interrupt it, or name another run"
        ) from None
    except OSError as error:
        logger.warning("%s cannot be locked (%s): see that only one `areal run` uses it", path, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def holder(path: Path) -> str:
    """Who holds the lock of a run directory, or held it last, as `hold` wrote it; empty if that is not known."""
    try:
        return (path / LOCK).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _take_lock(file: IO[str]) -> None:
    """Raises BlockingIOError if another holds it for longer than a look by `is_held` takes."""
    deadline = time.monotonic() + LOOK_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a run directory."""
    return is_locked(path / LOCK)


def _cut_torn_line(path: Path) -> None:
    """Drop the half line that a writer left when it died, so that the next one begins on a line of its own."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def replace(path: Path, text: str) -> None:
    """Write aside, make durable, rename."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def _to_json(value: Record, indent: int | None = None) -> str:
    return json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """The value with null for every NaN and infinity: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
