"""What torch says of GPUs, asked in a process of its own."""

import sys
from pathlib import Path

import psutil
import pytest

from areal.launch.doctor import cuda
from areal.launch.doctor.cuda import Torch, ask_torch


def test_torch_says_what_it_is_and_what_it_can_use() -> None:
    told = ask_torch()
    assert told.version and (told.usable or told.error)
    assert "torch" not in sys.modules or told.version == sys.modules["torch"].__version__


@pytest.mark.parametrize(
    ("torch", "error"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "ImportError: libcudart.so.13"),
        ("import os; os._exit(1)", "it died without a word"),
        ("import time; time.sleep(60)", "it did not answer within 0.5 s"),
    ],
)
def test_a_torch_that_does_not_say_it_is_an_error(
    torch: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.setattr(cuda, "own_environment", lambda: {"PYTHONPATH": str(tmp_path)})
    before = psutil.Process().children()
    told = ask_torch(0.5 if "sleep" in torch else 30.0)
    assert told == Torch(error=told.error) and error in told.error
    assert psutil.Process().children() == before
