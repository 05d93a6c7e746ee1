"""What has to be there before the mini-cluster is tried."""

import os

import pytest

from . import podman
from .podman import Unable, install


def test_nobody_but_root_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman without root would start all, and fail where a network is taken down."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(podman, "is_installed", lambda: True)
    with pytest.raises(Unable, match="only root"):
        install()
