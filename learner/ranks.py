"""The processes that train one policy together: what each computes is summed, what each holds is a shard.

Every rank knows the whole batch and plans its step alike; the passes are dealt out, and so is the memory (FSDP2: Zhao
et al., arXiv 2304.11277, per parameter). What one of them gives up on, all must give up on: decide by what is summed.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup, Store  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..broker.errors import RoleDied
from ..broker.trajectory import Group
from .checkpoint import WRITE_TIMEOUT_S
from .orders import Orders
from .shares import Shares

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
COLLECTIVE_TIMEOUT_S = 600.0
"""How long a rank waits in a pass for another, which has about as much to do."""

GONE = re.compile(
    r"connection (was likely )?(closed|reset|refused)|broken pipe|failed to recv|time(d |-)?out|unreachable|no route"
    r"|network error|remote process|abort",
    re.IGNORECASE,
)
"""How gloo, NCCL and the store say that nobody is at the other end. NCCL's invalid usage and system errors say other things."""


@dataclass(frozen=True, slots=True)
class Company:
    """What several ranks have in common, as one of them holds it.

    mesh:   all of them, as torch.distributed sees them.
    group:  all of them once more, for checkpoints, which are written beside the passes.
    store:  where they met.
    orders: what the leader tells the others, and the others hear.
    shares: the folders that they write into together.
    """

    mesh: DeviceMesh
    group: ProcessGroup
    store: Store
    orders: Orders
    shares: Shares


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks, seen from one of them; by default it is alone. `company` is what it has with the others once they met."""

    rank: int = 0
    count: int = 1
    company: Company | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the rank that speaks with the broker."""
        return self.rank == 0

    @property
    def group(self) -> ProcessGroup | None:
        """Who writes checkpoints together; None for one alone."""
        return None if self.company is None else self.company.group

    def tell(self, name: str, groups: Sequence[Group[Any]] = (), **values: Any) -> None:
        """Have the others do what this rank does now; says nothing unless it leads others."""
        if self.company is not None and self.leads:
            self.company.orders.give(name, groups, **values)

    def reassure(self) -> None:
        """Let the others know that this rank still leads them, while it has nothing for them to do. Call it often."""
        if self.company is not None and self.leads:
            self.company.orders.reassure()

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

    def shard(self, root: nn.Module, units: Iterable[nn.Module]) -> None:
        """Leave this rank its shard of each parameter, which the passes gather, unit by unit, and gradients sum into.

        What is trained of a unit, and of what `root` holds besides, must have one dtype. Gradients are summed in float32,
        and not averaged: the loss of a micro-batch is its part of the batch's.
        """
        if self.company is None:
            return
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        options: dict[str, Any] = {"mesh": self.company.mesh, "reshard_after_forward": True}
        precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for module in [*units, root]:
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
        said = str(error).partition("Exception raised from")[0]  # the frames of the stack come after
        between_ranks = "gloo" in said or isinstance(error, dist.DistError)
        if not between_ranks or not GONE.search(said):
            raise
        raise RoleDied(f"another rank of the learner is gone ({said.splitlines()[0]})") from error


def join(store: Any, *, rank: int, count: int, host: str) -> Ranks:
    """This process as one of `count` ranks that meet at a torch.distributed store; `host` is its address for the others."""
    _speak_by(host)
    cuda = torch.cuda.is_available()
    backend, device = ("cpu:gloo,cuda:nccl", "cuda") if cuda else ("gloo", "cpu")
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    mesh = init_device_mesh(device, (count,))
    group = dist.new_group(backend="gloo", timeout=timeout + timedelta(seconds=WRITE_TIMEOUT_S))  # one writes for all
    return Ranks(rank, count, Company(mesh, group, store, Orders(store), Shares(store, rank=rank, count=count)))


def _speak_by(host: str) -> None:
    """Have gloo take the network interface that has this address; it would take the one of the host's own name."""
    names = [name for name, own in psutil.net_if_addrs().items() if host in {each.address for each in own}]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])
