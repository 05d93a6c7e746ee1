"""Where pictures of known classes are: scikit-learn's digits, or a folder with a folder of pictures for each class."""

from dataclasses import dataclass
from pathlib import Path

from ..broker.errors import ConfigError

DIGITS = "digits"
NUM_DIGITS = 10
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """classes: the name of each label; files: the pictures of a folder, each with its label; digits have none."""

    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]


def find_pictures(source: str, *, key: str) -> PictureFiles:
    """What `source` names, unread; raises ConfigError, which names the `key`, for what holds no pictures."""
    if source == DIGITS:
        return PictureFiles(tuple(map(str, range(NUM_DIGITS))), ())
    folder = Path(source)
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    files = tuple((path, label) for label, name in enumerate(classes) for path in _pictures_in(folder / name))
    if len(files) < 2:
        raise ConfigError(
            f"{key}: {source!r} is neither {DIGITS!r} nor a folder that holds, for each class, a folder of pictures "
            f"({', '.join(ENDINGS)})"
        )
    return PictureFiles(tuple(classes), files)


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
