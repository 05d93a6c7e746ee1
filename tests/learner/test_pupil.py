from pathlib import Path

import torch

from areal.learner.checkpoint import CheckpointStore
from areal.learner.pupil import Pupil

from .test_learner import settings_of


def test_random_draws_go_on_where_a_checkpoint_left_them(tmp_path: Path) -> None:
    training, store = settings_of("run", tmp_path), CheckpointStore(tmp_path, keep=1)
    pupil = Pupil(training, str)
    torch.rand(5)
    store.save(pupil.snapshot(pupil.weights(), trained=[], epoch=1), permit=lambda: None, done=lambda: None)
    store.wait()
    wanted = torch.rand(5)
    Pupil(training, str, store.load_latest())
    assert torch.equal(torch.rand(5), wanted)
