"""One rank of several that save or load a checkpoint together: python -m tests.learner.sharded TASK RANK WORLD FOLDER."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from areal.broker.errors import ArealError, Fenced
from areal.learner.checkpoint import CheckpointStore, LearnerState, Snapshot

TIMEOUT_S = 40
NUM_OWNED = 3


def sharded() -> dict[str, Tensor]:
    """Tensors that are cut along their rows: evenly, unevenly, into fewer rows than ranks, in 16 bits."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"even": (4, 3), "uneven": (5, 2), "one_row": (1, 7), "vector": (3,)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return made | {"half": torch.randn(3, 3, generator=generator).bfloat16()}


def owned() -> dict[str, Tensor]:
    """Tensors of which each rank has some, whole."""
    return {f"layer.{number}": torch.full((2, 3), 1.5 + number) for number in range(NUM_OWNED)}


def snapshot(step: int, rank: int, world: int, mesh: DeviceMesh) -> Snapshot:
    weights = {name: tensor for place, (name, tensor) in enumerate(owned().items()) if place % world == rank}
    critic = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in sharded().items()}
    state = LearnerState(step, step, [(0, step)] if rank == 0 else [], 7 if rank == 0 else 0)
    rng = torch.full((4,), rank, dtype=torch.uint8)
    return Snapshot(state, weights, critic | {"0.step": torch.tensor(3.0)}, critic, rng)


def save(store: CheckpointStore, rank: int, world: int, mesh: DeviceMesh) -> None:
    """Two steps, the second of which is saved twice, and a third that is not permitted."""
    called: list[str] = []
    for step in (5, 6, 6):
        made = snapshot(step, rank, world, mesh)
        store.save(made, permit=lambda: called.append("permit"), done=lambda: called.append("done"))
        store.wait()
    print("called", *called)

    def refuse() -> None:
        raise Fenced("epoch 7 is over")

    store.save(snapshot(8, rank, world, mesh), permit=refuse, done=lambda: called.append("done"))
    try:
        store.wait()
    except ArealError as error:
        print("refused", type(error).__name__, error)


def load(store: CheckpointStore, mesh: DeviceMesh) -> None:
    """All that was saved, each rank its shards, and compare."""
    checkpoint = store.load_latest()
    assert checkpoint is not None
    empty = {name: torch.full_like(tensor, 9.0) for name, tensor in sharded().items()}
    mine = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in empty.items()}
    count = torch.tensor(0.0)
    checkpoint.fill("optimizer", mine | {"0.step": count})
    wrong = [name for name, tensor in sharded().items() if not torch.equal(mine[name].full_tensor(), tensor)]
    weights = {name: torch.zeros_like(tensor) for name, tensor in owned().items()}
    checkpoint.fill("weights", weights)
    wrong += [name for name, tensor in owned().items() if not torch.equal(weights[name], tensor)]
    print("loaded", checkpoint.state.step, count.item(), checkpoint.rng.tolist(), *wrong)


def main(task: str, rank: int, world: int, folder: Path) -> None:
    timeout = timedelta(seconds=TIMEOUT_S)
    where = f"file://{folder}/{task}-{world}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world, timeout=timeout)
    mesh = init_device_mesh("cpu", (world,))
    store = CheckpointStore(folder / "checkpoints", keep=1, archive_every=5, group=dist.new_group(backend="gloo"))
    if task == "save":
        save(store, rank, world, mesh)
    else:
        load(store, mesh)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
