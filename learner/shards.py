"""Tensors in a folder of safetensors files: each whole in one file, or cut into shards, as torch.distributed.checkpoint has it.

Whichever ranks wrote a folder, any others read it: a rank gets what it asks for out of the shards that this meets.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import _getdtype as getdtype
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ..broker.errors import ModelError
from ..broker.folder import sync

warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # a single process is no mistake


def write_shards(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Write tensors on the CPU into a folder, durably.

    Every rank of the group calls this with its own: DTensors, of which each writes its shard, and plain tensors, which
    one of those writes that have the name. Raises on each rank what went wrong on any.
    """
    try:
        save(dict(tensors), storage_writer=_Writer(folder), process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error) from error


class Shards:
    """The tensors of a folder, open: they can be read to the end even if their files are deleted meanwhile.

    Raises OSError or ValueError if it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pieces: dict[str, list[_Piece]] = {}
        try:
            for path in sorted(folder.glob("*.safetensors")):
                file: Any = safe_open(path, framework="pt")
                offsets = json.loads((file.metadata() or {}).get(CUSTOM_METADATA_KEY, "{}"))
                for name in file.keys():  # noqa: SIM118 (no dictionary)
                    shape = tuple(file.get_slice(name).get_shape())
                    offset = offsets.get(name, {}).get(SAVED_OFFSETS_KEY, (0,) * len(shape))
                    self._pieces.setdefault(name, []).append(_Piece(file, tuple(offset), shape))
        except SafetensorError as error:
            raise ValueError(f"{path}: {error}") from error

    def names(self) -> list[str]:
        """The names of the tensors."""
        return sorted(self._pieces)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        pieces = self._pieces[name]
        return tuple(max(ends) for ends in zip(*(piece.ends for piece in pieces), strict=True))

    def read(self, name: str) -> Tensor:
        """One tensor, whole."""
        pieces = self._pieces[name]
        if len(pieces) == 1:
            return pieces[0].read(name)
        whole: Tensor | None = None
        for piece in pieces:
            part = piece.read(name)
            whole = torch.empty(self.shape(name), dtype=part.dtype) if whole is None else whole
            whole[tuple(map(slice, piece.offset, piece.ends))] = part
        assert whole is not None
        return whole

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Read into tensors of these names; a DTensor gets its own shard alone.

        Raises ModelError, with nothing read, where names, shapes or types are not those of the folder.
        """
        odd = sorted(tensors.keys() ^ self._pieces.keys())
        if odd:
            raise ModelError(f"{len(odd)} names differ, {odd[0]!r} first")
        for name, tensor in tensors.items():
            there = _described(self.shape(name), self._pieces[name][0].dtype(name))
            here = _described(tensor.shape, tensor.dtype)
            if there != here:
                raise ModelError(f"{name!r} is {there} there, and {here} here")
        if tensors:
            try:
                load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(self._folder)), no_dist=True)
            except CheckpointException as error:
                raise ModelError(f"they cannot be read: {_cause(error)}") from error


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor's part in one file: where it begins in the whole, and how far it goes."""

    file: Any
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(start + length for start, length in zip(self.offset, self.shape, strict=True))

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(name)
        return tensor

    def dtype(self, name: str) -> torch.dtype:
        found: torch.dtype = getdtype(self.file.get_slice(name).get_dtype())
        return found


class _Writer(HuggingFaceStorageWriter):
    """Has safetensors write each rank's tensors from where they lie.

    The writer's own way makes two copies of a file in memory while no other thread can run: for 1 GB that is seconds.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._folder = folder

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors: dict[str, Tensor] = {}
        offsets: dict[str, dict[str, list[int]]] = {}
        results = []
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor) and item.tensor_data is not None and item.index.fqn not in tensors
            tensors[item.index.fqn] = tensor.contiguous()
            offsets[item.index.fqn] = {SAVED_OFFSETS_KEY: [*item.tensor_data.chunk.offsets]}
            results.append(WriteResult(item.index, tensor.nbytes, None))
        if tensors:
            path = self._folder / f"{plan.storage_data['shard_index']:05d}.safetensors"
            save_file(tensors, path, {"format": "pt", CUSTOM_METADATA_KEY: json.dumps(offsets)})
            sync(path)
        written: Future[list[WriteResult]] = Future()
        written.set_result(results)
        return written


def _described(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')}{[*shape]}"


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong on the first of the ranks on which something did."""
    return error.failures[min(error.failures)][0]
