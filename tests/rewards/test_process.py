import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from areal.broker.errors import RewardError
from areal.rewards import frames

PARENT = """
import asyncio, sys
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool

async def main():
    pool = RewardPool(RewardsConfig(functions=[{"name": sys.argv[1]}], workers=2))
    await pool.start()
    print("started", flush=True)
    await pool.score("p", "c", {})

asyncio.run(main())
"""


def test_processes_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text("import time\ndef hang(completion): time.sleep(600)\n")
    command = [sys.executable, "-c", PARENT, f"{tmp_path}/hang.py:hang"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"started\n"
        children = psutil.Process(parent.pid).children()
        parent.kill()
    assert len(children) == 2
    deadline = time.monotonic() + 30
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.02)


def test_the_process_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pydantic", "omegaconf", "ray", "transformers", "asyncio"}
    code = f"import sys, areal.rewards.process; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_frames_are_bounded_and_hold_only_json_values() -> None:
    frame = frames.pack([1, "é\ud83d", {"a": [0.5, None, True]}])
    body = frame[frames.HEADER.size :]
    assert frames.length(frame[: frames.HEADER.size]) == len(body)
    assert frames.unpack(body) == [1, "é\ud83d", {"a": [0.5, None, True]}]
    with pytest.raises(RewardError, match="cannot be sent"):
        frames.pack([{1, 2}])
    with pytest.raises(RewardError, match="exceeds"):
        frames.pack(b"x" * frames.MAX_FRAME_BYTES)
    with pytest.raises(RewardError, match="announces 4294967295 bytes"):
        frames.length(b"\xff" * 4)
    with pytest.raises(RewardError, match="not msgpack"):
        frames.unpack(b"\xc1")
