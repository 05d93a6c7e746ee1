"""The GPUs of this machine, as nvidia-smi tells of them."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field

QUERY = ["--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"]
QUERY_TIMEOUT_S = 10.0
MAX_ERROR = 300


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, its memory in MiB."""

    name: str
    memory_mib: int
    used_mib: int
    driver: str


@dataclass(frozen=True, slots=True)
class Gpus:
    """Those that were found; or why nvidia-smi, which is there, tells of none."""

    found: list[Gpu] = field(default_factory=list)
    error: str = ""


def find_gpus(*, hidden: bool = False) -> Gpus:
    """None where there is no nvidia-smi. `hidden`: also those that CUDA_VISIBLE_DEVICES hides, as Ray has it do in a task."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Gpus()
    try:
        done = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Gpus(error=f"it did not answer within {QUERY_TIMEOUT_S:g} s")
    except (OSError, ValueError) as error:
        return Gpus(error=str(error))
    said = " ".join(f"{done.stdout} {done.stderr}".split())[:MAX_ERROR]
    found = [gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None]
    if done.returncode or (said and not found):
        return Gpus(error=said or f"it ended with {done.returncode}, without a word")
    return Gpus(found if hidden else _visible(found))


def _gpu(line: str) -> Gpu | None:
    try:
        name, total, used, driver = (part.strip() for part in line.split(","))
        return Gpu(name, int(total), int(used), driver)
    except ValueError:
        return None


def _visible(gpus: list[Gpu]) -> list[Gpu]:
    """Those whose numbers CUDA_VISIBLE_DEVICES names; of other kinds of names, as many as there are."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return gpus
    names = [name.strip() for name in said.split(",") if name.strip() not in ("", "-1")]
    if all(name.isdigit() for name in names):
        return [gpus[int(name)] for name in names if int(name) < len(gpus)]
    return gpus[: len(names)]
