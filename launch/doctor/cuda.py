"""Whether torch can use GPUs: asked in a process of its own, as torch is slow to import, and a driver may hang."""

import json
import subprocess
import sys
from dataclasses import dataclass

from ...broker.lifetime import begin_child
from ..cluster.process import own_environment

DEADLINE_S = 45.0
QUESTION = """
import json, torch
error = ""
try:
    torch.cuda.init()
except Exception as raised:
    error = str(raised)
usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "", "usable": usable, "error": error}))
"""


@dataclass(frozen=True, slots=True)
class Torch:
    """Its version, that of the CUDA that it is built for (empty: none), how many GPUs it can use, and why not."""

    version: str = ""
    cuda: str = ""
    usable: int = 0
    error: str = ""


def ask_torch(timeout_s: float = DEADLINE_S) -> Torch:
    """What it says; without a version where it says nothing."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", QUESTION],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(),
        preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
    )
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return Torch(error=f"it did not answer within {timeout_s:g} s")
    try:
        return Torch(**json.loads(out.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return Torch(error=(err.strip().splitlines() or ["it died without a word"])[-1])
