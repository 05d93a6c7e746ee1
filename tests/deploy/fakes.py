"""Programs that stand on PATH in place of others and note how they were called."""

import json
import sys
from pathlib import Path

NOTE = f"""\
#!{sys.executable} -IS
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.path.join(os.environ["FAKES"], name + ".calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
"""


def put(folder: Path, *names: str, then: str = "") -> None:
    """Programs that note their arguments and do `then`, a piece of Python. The variable FAKES has to name the folder."""
    for name in names:
        file = folder / name
        file.write_text(NOTE + then)
        file.chmod(0o755)


def calls(folder: Path, name: str) -> list[list[str]]:
    """The arguments of each call, in order."""
    file = folder / f"{name}.calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
