import sys
from pathlib import Path

import pytest

from areal.broker.errors import ConfigError
from areal.launch.models.pretrain import execute
from areal.learner.config import ConsistencyConfig


def test_a_package_that_is_missing_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "areal.learner.consistency", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"need diffusers: pip install 'areal-rl\[images\]'"):
        execute(ConsistencyConfig(output=tmp_path))
