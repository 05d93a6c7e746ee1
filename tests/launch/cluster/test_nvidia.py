from pathlib import Path

import pytest

from areal.launch.cluster import nvidia
from areal.launch.cluster.nvidia import Gpu, Gpus, find_gpus

TWO = "NVIDIA A, 24576, 3, 570.1\nNVIDIA A, 24576, 20000, 570.1\nnonsense\n"
FREE, USED = Gpu("NVIDIA A", 24576, 3, "570.1"), Gpu("NVIDIA A", 24576, 20000, "570.1")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command of that name, which tells of two GPUs, first on the PATH."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{TWO}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return command


def test_gpus_are_those_that_nvidia_smi_tells_of_and_that_may_be_seen(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_gpus() == Gpus([FREE, USED])
    for said, seen in (("1", [USED]), ("1,0,7", [USED, FREE]), ("", []), ("-1", []), ("GPU-a", [FREE])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert find_gpus() == Gpus(seen), said
        assert find_gpus(hidden=True) == Gpus([FREE, USED])


def test_no_nvidia_smi_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == Gpus()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'Failed to initialize NVML:'; echo 'Driver/library version mismatch'; exit 18", "NVML: Driver/library"),
        ("echo 'No devices were found' >&2; exit 6", "No devices were found"),
        ("exit 9", "it ended with 9, without a word"),
        ("echo 'NVIDIA A, [N/A], [N/A], 570.1'", "NVIDIA A, [N/A]"),
        ("exec sleep 9", "it did not answer within 0.2 s"),
    ],
)
def test_what_an_nvidia_smi_says_that_fails_is_kept(
    script: str, says: str, nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(nvidia, "QUERY_TIMEOUT_S", 0.2)
    nvidia_smi.write_text(f"#!/bin/sh\n{script}\n")
    gpus = find_gpus()
    assert gpus.found == [] and says in gpus.error
