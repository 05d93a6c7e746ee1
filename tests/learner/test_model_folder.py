from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from areal.learner.pupil import Pupil
from areal.learner.ranks import Ranks
from areal.learner.token_policy import TokenPolicy

from .lessons import lesson
from .test_trainer import save_tiny_llama
from .together import training_of


@pytest.fixture
def pupil(tmp_path: Path) -> Pupil:
    save_tiny_llama(tmp_path / "start")
    (tmp_path / "start" / "tokenizer.json").write_text("{}")
    return Pupil(training_of(tmp_path, {}), lambda position: position)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The model/ of a run."""
    return tmp_path / "run" / "model"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_that_is_saved_again_takes_the_place_of_the_one_before(pupil: Pupil, model: Path) -> None:
    pupil.save_pretrained(model)
    before = files(model)
    (model / "of-the-one-before").touch()
    pupil.learn(lesson(1).groups)
    pupil.save_pretrained(model)
    assert files(model).keys() == before.keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
    saved = load_file(model / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in pupil.weights().items())
    assert before["model.safetensors"] != (model / "model.safetensors").read_bytes()
    assert [path.name for path in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_ends_half_way_leaves_the_model_before(
    pupil: Pupil, model: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    pupil.save_pretrained(model)
    before = files(model)
    pupil.learn(lesson(1).groups)

    def fails(_: TokenPolicy, folder: Path) -> None:
        assert (folder / "model.safetensors").is_file() and not (folder / "tokenizer.json").exists()
        assert files(model) == before
        raise error

    monkeypatch.setattr(TokenPolicy, "_save_tokenizer", fails)
    with pytest.raises(type(error)):
        pupil.save_pretrained(model)
    assert files(model) == before and [path.name for path in model.parent.iterdir()] == ["model"]


def test_what_a_killed_save_left_is_tidied_by_the_next(pupil: Pupil, model: Path) -> None:
    pupil.save_pretrained(model)
    model.rename(model.with_name(".displaced.model"))
    half = model.with_name(".model.partial")
    half.mkdir()
    (half / "half").touch()
    pupil.save_pretrained(model)
    assert "half" not in files(model) and [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_rank_that_does_not_lead_leaves_the_folder_to_the_one_that_does(
    pupil: Pupil, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(pupil, "_ranks", Ranks(rank=1, count=2))
    monkeypatch.setattr(pupil._policy, "save_pretrained", called.append)
    aside = model.with_name(".model.partial")
    aside.mkdir(parents=True)
    pupil.save_pretrained(model)
    assert len(called) == 1 and aside.is_dir() and not model.exists()
