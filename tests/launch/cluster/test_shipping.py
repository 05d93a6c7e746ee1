"""What goes to the nodes of a cluster, and what stays here."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError
from areal.launch.cluster import shipping
from areal.launch.cluster.shipping import Shipment, shipment_of
from areal.launch.config import load_run_config
from areal.rewards.shipped import FOLDER

WRITTEN = """
model: {path: models/sort}
dataset: {source: sort}
rewards: {functions: [{name: ./my_reward.py:brevity}]}
broker: {url: redis://head:6379/0}
cluster: {address: auto}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and the reward that it names; one stands elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    made = tmp_path / "home"
    write(made, {"run.yaml": WRITTEN, "my_reward.py": "import words", "words.py": "", "lists/short.txt": "a b c"})
    return made


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def shipment(home: Path, *overrides: str) -> Shipment:
    found = shipment_of(load_run_config(home / "run.yaml", [f"directory={home / 'runs'}", *overrides]))
    assert found is not None
    return found


def names(found: Shipment) -> set[str]:
    return {name.partition("/")[2] for name in found.files}


def test_the_folder_of_a_reward_goes_with_it(home: Path) -> None:
    found = shipment(home)
    assert names(found) == {"run.yaml", "my_reward.py", "words.py", "lists/short.txt"}
    assert found.moved == {str(home): "0"} and found.left_out == []
    assert found.told == f"shipping to the nodes (4 files, 1 KiB): {home}"
    with found.staged() as folder:
        assert folder.name == FOLDER and [path.name for path in folder.parent.iterdir()] == [FOLDER]
        assert (folder / "0" / "lists" / "short.txt").read_text() == "a b c"
    assert not folder.exists()


SECRET = {
    ".env": "PASSWORD=x",
    ".git/config": "token",
    "prod.env": "PASSWORD=x",
    "server.key": "x",
    "cert.pem": "x",
    "id_ed25519": "x",
    "aws_credentials.json": "x",
    "secrets/api.txt": "x",
    "hf_token.txt": "x",
    "token.json": "x",
    "api_key.txt": "x",
    "openai-api-key": "x",
    "service_account_access_key.json": "x",
    "notes.txt": "my key\n-----BEGIN OPENSSH PRIVATE KEY-----\n",
}
CLUTTER = {
    "runs/mine/metrics.jsonl": "{}",
    "my_venv/pyvenv.cfg": "",
    "my_venv/lib/six.py": "",
    "__pycache__/words.cpython-311.pyc": "",
}


def test_secrets_and_clutter_stay_here(home: Path) -> None:
    write(home, SECRET | CLUTTER)
    found = shipment(home)
    assert names(found) == {"run.yaml", "my_reward.py", "words.py", "lists/short.txt"}
    assert "notes.txt (a private key)" in found.left_out and "server.key (secret by its name)" in found.left_out
    assert {f"{name} (secret by its name)" for name in ("hf_token.txt", "token.json", "api_key.txt")} < {
        *found.left_out
    }
    assert "; left out: api_key.txt (secret by its name), " in found.told and found.told.endswith(", and 8 more")


def test_what_is_about_tokens_of_texts_goes(home: Path) -> None:
    write(home, dict.fromkeys(["tokenizer.json", "tokens.py", "tokenise.py", "special_tokens_map.json"], "x"))
    found = shipment(home)
    assert {"tokenizer.json", "tokens.py", "tokenise.py", "special_tokens_map.json"} < names(found)
    assert found.left_out == []


def test_large_files_and_links_stay_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "MAX_FILE_BYTES", 1000)
    write(home, {"weights.bin": "x" * 2000})
    (home / "home_of_all").symlink_to("/etc")
    (home / "passwd.txt").symlink_to("/etc/hostname")
    found = shipment(home)
    assert names(found) == {"run.yaml", "my_reward.py", "words.py", "lists/short.txt"}
    assert sorted(found.left_out) == ["passwd.txt (a link)", "weights.bin (2 KiB)"]


def test_what_git_ignores_stays_here_unless_it_is_named(home: Path) -> None:
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    write(home, {".gitignore": "notes.txt\nmy_reward.py\n", "notes.txt": "x"})
    assert names(shipment(home)) == {"run.yaml", "my_reward.py", "words.py", "lists/short.txt"}


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 100), ("MAX_FILES", 3)])
def test_too_much_is_an_error_that_says_what_to_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(shipping, limit, value)
    with pytest.raises(ConfigError, match=rf"cluster\.ship: {home} hold more than .* name the files and folders"):
        shipment(home)


def test_a_list_takes_the_place_of_folders_but_what_is_named_goes_anyhow(home: Path) -> None:
    write(home, {"lists/token.key": "x"})
    found = shipment(home, "cluster.ship=[lists, lists/token.key]")
    assert set(found.files) == {"0/short.txt", "0/token.key", "1/my_reward.py"}
    assert found.moved == {str(home / "lists"): "0", str(home / "my_reward.py"): "1/my_reward.py"}


def test_a_list_that_names_nothing_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.ship: 'lits' is neither a file nor a folder"):
        shipment(home, "cluster.ship=[lits]")


def test_rows_and_a_workflow_go_too(home: Path, tmp_path: Path) -> None:
    rows, flow = tmp_path / "rows.jsonl", tmp_path / "flows" / "mine.py"
    write(tmp_path, {"rows.jsonl": "{}", "flows/mine.py": ""})
    found = shipment(home, f"dataset.source={rows}", f"rollout.workflow={flow}:Mine")
    assert found.moved == {str(flow.parent): "0", str(home): "1", str(rows): "2/rows.jsonl"}
    assert {"0/mine.py", "1/words.py", "2/rows.jsonl"} <= set(found.files)


def test_a_module_brings_the_working_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, {"package/__init__.py": "", "package/mod.py": ""})
    write(home, {"run.yaml": WRITTEN.replace("./my_reward.py:", "package.mod:")})
    monkeypatch.chdir(home)
    assert shipment(home).moved == {str(home): "0"}
    monkeypatch.chdir(home / "lists")
    assert shipment_of(load_run_config(home / "run.yaml")) is None  # it is installed, then


@pytest.mark.parametrize("overrides", [["cluster.ship=false"], ["cluster.address=null"]])
def test_nothing_is_shipped_where_nothing_has_to_be(home: Path, overrides: list[str]) -> None:
    assert shipment_of(load_run_config(home / "run.yaml", overrides)) is None


def test_a_bundled_reward_needs_nothing(home: Path) -> None:
    write(home, {"run.yaml": WRITTEN.replace("./my_reward.py:brevity", "sort")})
    assert shipment_of(load_run_config(home / "run.yaml")) is None


def test_what_cannot_be_read_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> Any:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(shipping, "_beginning", refuse)
    assert "words.py (Permission denied)" in shipment(home).left_out
