"""What a run has learned from: a file for the batch of each step, for `areal replay` to train on again.

groups/step-00000007.groups

    bytes 0-7   MAGIC, the last of them the format's version
    parts       each: length (u32), CRC-32 (u32), as many bytes

The first part is the header, as JSON; the others are the groups in the order in which they were learned from, each as it
travelled (broker/codec.py). Integers are little endian, and the file ends with the last group.
"""

import json
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..broker.codec import decode_group, encode_group
from ..broker.errors import CodecError
from ..broker.folder import sync
from ..broker.trajectory import Group
from .behind import Behind

MAGIC = b"\x89AREAL\n\x01"
SUFFIX, PARTIAL = ".groups", ".partial"
WRITE_TIMEOUT_S = 600.0

_PART = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Lesson:
    """The batch of a step (from 1), taken by weights of `version`; `resumes` are those before it (Trainer.resume)."""

    step: int
    version: int
    resumes: list[tuple[int, int]]
    groups: Sequence[Group[Any]]


class Recording:
    """The lessons of the lineage that survives, one written at a time; a step that is taken again replaces its file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # nobody else's: a learner that was frozen may yet write on
        self._aside = folder / f".{uuid.uuid4().hex}{PARTIAL}"
        self._behind = Behind("a batch", timeout_s=WRITE_TIMEOUT_S)

    def steps(self) -> list[int]:
        """The steps that there are lessons of, in order."""
        return sorted(int(path.stem.partition("-")[2]) for path in self._folder.glob(f"step-*{SUFFIX}"))

    def read(self, step: int) -> Lesson:
        """The lesson of a step; raises CodecError, naming the file, if it cannot be read or is damaged."""
        path = self._path(step)
        try:
            lesson = _decoded(path.read_bytes())
        except OSError as error:
            raise CodecError(f"the recording {path} cannot be read: {error}") from error
        except (CodecError, ValueError, KeyError, TypeError) as error:
            raise CodecError(f"the recording {path} is damaged: {error}") from error
        if lesson.step != step:
            raise CodecError(f"the recording {path} is of step {lesson.step}")
        return lesson

    def forget(self, *, after: int) -> None:
        """Delete the lessons beyond a step, learned from in a lineage that is lost, and what was left half written."""
        for left in self._folder.glob(f".*{PARTIAL}"):
            left.unlink(missing_ok=True)
        for step in self.steps():
            if step > after:
                self._path(step).unlink()

    def add(self, lesson: Lesson, *, permit: Callable[[], None]) -> None:
        """Write in the background, unless `permit`, called when all is written aside, raises.

        Waits for, and raises the error of, the write before.
        """
        self.wait()
        self._behind.begin(self._write, lesson, permit)

    def wait(self) -> None:
        """Until all lessons are durable; raises what went wrong with the last, or DeadlineExceeded."""
        self._behind.wait()

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}{SUFFIX}"

    def _write(self, lesson: Lesson, permit: Callable[[], None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(lesson.step)
        with self._aside.open("wb") as file:
            file.writelines(_encoded(lesson))
        sync(self._aside)
        permit()
        self._aside.replace(path)
        sync(self._folder)


def _encoded(lesson: Lesson) -> Iterator[bytes]:
    header = {"step": lesson.step, "version": lesson.version, "resumes": lesson.resumes, "groups": len(lesson.groups)}
    yield MAGIC
    for part in (json.dumps(header).encode(), *map(encode_group, lesson.groups)):
        yield _PART.pack(len(part), zlib.crc32(part))
        yield part


def _decoded(content: bytes) -> Lesson:
    if content[: len(MAGIC)] != MAGIC:
        raise CodecError("it does not begin as one does")
    parts = list(_parts(memoryview(content)[len(MAGIC) :]))
    if not parts:
        raise CodecError("it is cut off")
    header, *groups = parts
    fields = json.loads(bytes(header))
    if len(groups) != fields["groups"]:
        raise CodecError(f"it holds {len(groups)} groups of {fields['groups']}")
    resumes = [(version, gap) for version, gap in fields["resumes"]]
    return Lesson(fields["step"], fields["version"], resumes, [decode_group(group) for group in groups])


def _parts(rest: memoryview) -> Iterator[memoryview]:
    while rest:
        if len(rest) < _PART.size:
            raise CodecError("it is cut off")
        length, digest = _PART.unpack_from(rest)
        part, rest = rest[_PART.size : _PART.size + length], rest[_PART.size + length :]
        if len(part) != length:
            raise CodecError("it is cut off")
        if zlib.crc32(part) != digest:
            raise CodecError("a checksum differs")
        yield part
