"""Ships what the configuration names of the user's own files to the nodes of a cluster, and nothing secret.

    ./my_reward.py:f   ─▶ its folder, as it may import what lies beside it
    ./rows.jsonl       ─▶ the file
    my_package.mod:f   ─▶ the working directory, where it lies there

They are copied aside first, so that only what was chosen can travel; Ray takes them to each node (runtime_env), and there
the paths of the configuration are named anew (rewards/shipped.py). Names, sizes and git's ignore files say what stays here.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ...broker.errors import ConfigError
from ...learner.config import DatasetConfig
from ...learner.data.config import PartConfig
from ...rewards.shipped import FOLDER
from ..config import RunConfig
from ..secret import is_secret_file

MIB = 2**20
MAX_FILE_BYTES = 10 * MIB
MAX_BYTES = 100 * MIB
MAX_FILES = 5000
SECRETS = (
    *("*.key", "*.pem", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.ppk", "*.gpg", "*.asc"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.env", "*.env.*", "*htpasswd*", "*netrc*", "kubeconfig*"),
)
"""Besides what launch/secret.py has."""
CLUTTER = (".*", "__pycache__", "*.pyc", "*.pyo", "venv", "node_modules", "*.egg-info")
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")


@dataclass(slots=True)
class Shipment:
    """What goes to the nodes: `files`, by where they then lie in the folder that is shipped.

    moved: where paths of this machine lie there.
    left_out: what was not taken that may be missed, and why.
    """

    moved: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    num_bytes: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """In one line, for the person who started the run."""
        size = f"{len(self.files)} files, {_size(self.num_bytes)}"
        said = f"shipping to the nodes ({size}): {', '.join(self.moved)}"
        more = f", and {len(self.left_out) - 4} more" if len(self.left_out) > 4 else ""
        return f"{said}; left out: {', '.join(self.left_out[:4])}{more}" if self.left_out else said

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """The folder to ship, for as long as this."""
        with tempfile.TemporaryDirectory(prefix="areal-ship-") as place:
            for name, file in self.files.items():
                target = Path(place) / FOLDER / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            yield Path(place) / FOLDER

    def add(self, path: Path, *, keep_out: Path, named: bool = False) -> None:
        """Take a file, or a folder but for what lies in `keep_out`; one that is `named` is taken whatever it is called.

        Raises ConfigError when it is too much.
        """
        for here, place in self.moved.items():
            if path.is_relative_to(here):
                inside = f"{place}/{path.relative_to(here)}"
                if named and path.is_file() and inside not in self.files:
                    self._take(inside, path)
                return
        place = str(len(self.moved))
        if path.is_dir():
            self.moved[str(path)] = place
            for file in self._chosen(path, keep_out):
                self._take(f"{place}/{file.relative_to(path)}", file)
        elif named or self._is_fit(path, path.name):
            self.moved[str(path)] = f"{place}/{path.name}"
            self._take(f"{place}/{path.name}", path)

    def _chosen(self, folder: Path, keep_out: Path) -> Iterator[Path]:
        listed = _listed_by_git(folder)
        for at, folders, files in os.walk(folder):
            folders[:] = sorted(
                name
                for name in folders
                if not _matches(name, CLUTTER) and Path(at, name) != keep_out and not _is_environment(Path(at, name))
            )
            for name in sorted(files):
                file, known_as = Path(at, name), str(Path(at, name).relative_to(folder))
                if (
                    not _matches(name, CLUTTER)
                    and (listed is None or known_as in listed)
                    and self._is_fit(file, known_as)
                ):
                    yield file

    def _is_fit(self, file: Path, known_as: str) -> bool:
        """Whether it may travel; if not, why is noted."""
        try:
            if file.is_symlink() or not file.is_file():
                why = "a link"
            elif any(_is_secret(part) for part in Path(known_as).parts):
                why = "secret by its name"
            elif file.stat().st_size > MAX_FILE_BYTES:
                why = _size(file.stat().st_size)
            elif PRIVATE_KEY.search(_beginning(file)):
                why = "a private key"
            else:
                return True
        except OSError as error:
            why = error.strerror or "not readable"
        self.left_out.append(f"{known_as} ({why})")
        return False

    def _take(self, name: str, file: Path) -> None:
        self.files[name] = file
        self.num_bytes += file.stat().st_size
        if self.num_bytes > MAX_BYTES or len(self.files) > MAX_FILES:
            raise ConfigError(
                f"cluster.ship: {', '.join(self.moved)} hold more than {MAX_FILES} files or {_size(MAX_BYTES)} to ship; name "
                "the files and folders that the nodes need (cluster.ship: [./my_reward.py, ./my_package]), or false if the "
                "same paths lead to them there"
            )


def shipment_of(config: RunConfig) -> Shipment | None:
    """What a run's nodes need of the files here; None if that is nothing. Raises ConfigError if it is too much."""
    ship = config.cluster.ship
    if config.cluster.address is None or ship is False:
        return None
    shipment, keep_out = Shipment(), config.directory.resolve()
    code, rows = _files_of_python(config), _files_of_rows(config)
    chosen = list(map(Path, ship)) if isinstance(ship, list) else _folders(config, code)
    for path in sorted(set(chosen)):  # a folder before what lies in it
        shipment.add(path, keep_out=keep_out, named=True)
    for path in code:
        shipment.add(path, keep_out=keep_out, named=True)
    for path in rows:
        shipment.add(path, keep_out=keep_out)
    return shipment if shipment.files else None


def _files_of_python(config: RunConfig) -> list[Path]:
    names = [reward.name for reward in config.rewards.functions] + [config.rollout.workflow]
    files = [Path(place) for place, _, _ in (name.rpartition(":") for name in names) if place.endswith(".py")]
    return [file.resolve() for file in dict.fromkeys(files) if file.is_file()]


def _files_of_rows(config: RunConfig) -> list[Path]:
    sources: list[DatasetConfig | PartConfig] = [config.dataset, *config.dataset.mixture]
    names = [name for source in sources for name in (source.source, source.eval_source) if name]
    return [Path(name) for name in dict.fromkeys(names) if Path(name).is_absolute() and Path(name).is_file()]


def _folders(config: RunConfig, code: Sequence[Path]) -> list[Path]:
    """The folders of files of Python, and the working directory if modules are named that lie there."""
    here = Path.cwd()
    names = [reward.name for reward in config.rewards.functions] + [config.rollout.workflow]
    modules = [place.partition(".")[0] for place, colon, _ in (name.rpartition(":") for name in names) if colon]
    is_here = any(
        (here / module).is_dir() or (here / f"{module}.py").is_file() for module in modules if "/" not in module
    )
    return [*(file.parent for file in code), *([here] if is_here else [])]


def _listed_by_git(folder: Path) -> set[str] | None:
    """What git has of a folder and does not ignore; None where there is no git, or where it ignores all that is there."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        said = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return set(os.fsdecode(said).split("\0")) - {""} or None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in patterns)


def _is_secret(name: str) -> bool:
    """Whether a file or a folder of that name is taken to hold secrets."""
    return is_secret_file(name) or _matches(name, SECRETS)


def _is_environment(folder: Path) -> bool:
    """Whether it is a virtual environment, whatever it is called."""
    return (folder / "pyvenv.cfg").is_file()


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(4096)


def _size(num_bytes: int) -> str:
    if num_bytes < MIB:
        return f"{max(1, round(num_bytes / 1024))} KiB"
    return f"{num_bytes / MIB:.1f} MiB"
