"""The processes that train one policy together: what each computes is summed, what each holds is a shard.

Every rank knows the whole batch and plans its step alike; the passes are dealt out, and so is the memory (FSDP2: Zhao
et al., arXiv 2304.11277, per parameter). What one of them gives up on, all must give up on: decide by what is summed.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from ..broker.errors import RoleDied
from ..broker.trajectory import Group
from .orders import Orders
from .shares import Shares

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
COLLECTIVE_TIMEOUT_S = 600.0
"""How long a rank waits in a pass for another, which has about as much to do."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks, seen from one of them; by default it is alone.

    mesh:   all of them, as torch.distributed sees them, where there are several.
    orders: what the leader tells the others, and the others hear.
    shares: the folders that they write into together.
    group:  all of them once more, for checkpoints, which are written beside the passes.
    """

    rank: int = 0
    count: int = 1
    mesh: Any = None
    orders: Orders | None = None
    shares: Shares | None = None
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the rank that speaks with the broker."""
        return self.rank == 0

    def tell(self, name: str, groups: Sequence[Group[Any]] = (), **values: Any) -> None:
        """Have the others do what this rank does now; says nothing unless it leads others."""
        if self.orders is not None and self.leads:
            self.orders.give(name, groups, **values)

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th of the items, from this rank's on."""
        return items[self.rank :: self.count]

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all ranks of a tensor on the CPU, the same on each."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def total(self, sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The sums added up by name, over the ranks too, each of which knows the same names."""
        names = sorted({name for each in sums for name in each})
        values = [sum(each.get(name, 0.0) for each in sums) for name in names]
        return dict(zip(names, self.summed(torch.tensor(values, dtype=torch.float64)).tolist(), strict=True))

    def shard(self, root: nn.Module, layers: Iterable[nn.Module]) -> None:
        """Leave this rank its shard of each parameter, which the passes gather, layer by layer, and gradients sum into.

        Gradients are summed in float32, and not averaged: the loss of a micro-batch is its part of the batch's.
        """
        if self.count == 1:
            return
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        options: dict[str, Any] = {"mesh": self.mesh, "reshard_after_forward": True}
        precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for module in [*layers, root]:
            fully_shard(module, mp_policy=precision, **options)
            assert isinstance(module, FSDPModule)
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no sum that is scaled on the way

    def owned(self, tensors: Mapping[str, Tensor], *, by_leader: bool = False) -> dict[str, Tensor]:
        """Copies on the CPU of the whole tensors that fall to this rank: about its share of the bytes, or by one rank all.

        Every rank must ask at once. Beyond its share a rank holds one whole tensor at a time.
        """
        owners = [0] * len(tensors) if by_leader else self._owners([tensor.numel() for tensor in tensors.values()])
        kept: dict[str, Tensor] = {}
        for (name, tensor), owner in zip(tensors.items(), owners, strict=True):
            full = whole(tensor)
            if owner == self.rank:
                kept[name] = full.to("cpu", copy=True).contiguous()
        return kept

    def _owners(self, sizes: Sequence[int]) -> list[int]:
        """The rank of each: largest first, to whoever has least."""
        loads, owners = [0] * self.count, [0] * len(sizes)
        for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
            owners[place] = min(range(self.count), key=loads.__getitem__)
            loads[owners[place]] += sizes[place]
        return owners


ALONE = Ranks()


def whole(tensor: Tensor) -> Tensor:
    """The tensor without gradient, gathered from the ranks where each holds a shard."""
    gather = getattr(tensor, "full_tensor", None)  # of a DTensor
    return tensor.detach() if gather is None else gather().detach()


@contextmanager
def blaming_others() -> Iterator[None]:
    """Raises RoleDied where something fails because another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error) and not isinstance(error, dist.DistError):
            raise
        raise RoleDied(f"another rank of the learner is gone ({str(error).splitlines()[0]})") from error


def join(store: Any, *, rank: int, count: int, host: str) -> Ranks:
    """This process as one of `count` ranks that meet at a torch.distributed store; `host` is what they meet by."""
    if host == LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    cuda = torch.cuda.is_available()
    backend, device = ("cpu:gloo,cuda:nccl", "cuda") if cuda else ("gloo", "cpu")
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    mesh = init_device_mesh(device, (count,))
    group = dist.new_group(backend="gloo", timeout=timeout)
    return Ranks(rank, count, mesh, Orders(store), Shares(store, rank=rank, count=count), group)
