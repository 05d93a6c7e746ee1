"""A folder of weights: which files it may hold, what they sum to, and that they are on the disk."""

import os
import re
import zlib
from pathlib import Path

from .errors import BrokerError

BLOCK_BYTES = 2**20
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.safetensors|adapter_config\.json")


def weight_files(folder: Path) -> list[Path]:
    """The folder's files in the order of their names; raises BrokerError if it holds none, or anything but weights."""
    try:
        files = sorted(folder.iterdir())
        odd = [file.name for file in files if not _is_weights(file)]
    except OSError as error:
        raise BrokerError(f"there are no weights at {folder}: {error}") from error
    if odd or not files:
        raise BrokerError(f"{folder} holds {odd[0]!r}, which is no weights" if odd else f"{folder} is empty")
    return files


def verify(folder: Path, digest: int) -> None:
    """Raises BrokerError unless the folder is there and whole, and holds tensors and their description only."""
    weight_files(folder)
    try:
        found = checksum(folder)
    except OSError as error:
        raise BrokerError(f"the weights at {folder} cannot be read: {error}") from error
    if found != digest:
        raise BrokerError(f"the weights at {folder} are damaged (their checksum differs)")


def checksum(folder: Path) -> int:
    """CRC-32 over the folder's files in the order of their names."""
    value = 0
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                value = zlib.crc32(block, value)
    return value


def flush(folder: Path) -> None:
    """Make a folder of files durable."""
    for path in [*folder.iterdir(), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Make one file durable, or the names in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_weights(file: Path) -> bool:
    return FILE_NAME.fullmatch(file.name) is not None and file.is_file() and not file.is_symlink()
