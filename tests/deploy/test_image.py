"""The Dockerfile: pinned, in stages, without root, and with nothing of the machine in it."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version

from .files import COMPOSE, CONSTRAINTS, DOCKERFILE, ROOT, pins

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IN_IMAGES = sorted(PROJECT["optional-dependencies"].keys() - {"bench", "dev"})
LINES = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines()
"""With continued lines joined."""


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_two_stages_stand_on_one_pinned_base() -> None:
    base = next(arg for arg in instructions("ARG") if arg.startswith("BASE="))
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.\d+\.\d+-slim-\w+", base)
    assert instructions("FROM") == ["${BASE} AS build", "${BASE}"]


def test_it_runs_as_nobody_special() -> None:
    user = instructions("USER")
    assert user == ["areal"]
    assert any("useradd --create-home --uid 10001 areal" in run for run in instructions("RUN"))
    assert LINES.index("USER areal") > max(
        index for index, line in enumerate(LINES) if line.startswith(("RUN", "COPY"))
    )


def test_no_secret_is_built_in() -> None:
    named = [each.partition("=")[0] for each in [*instructions("ARG"), *instructions("ENV")]]
    assert not [name for name in named if re.search("PASSWORD|TOKEN|SECRET", name)]
    assert ".env" not in (ROOT / ".dockerignore").read_text().split()  # only what is named goes into the image at all
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_what_is_installed_exists() -> None:
    defaults = dict(arg.split("=", 1) for arg in instructions("ARG") if "=" in arg)
    extras = PROJECT["optional-dependencies"]
    assert set(defaults["EXTRAS"].split(",")) <= extras.keys()
    assert f":-{defaults['EXTRAS']}}}" in COMPOSE.read_text()
    for name in ("REQUIREMENTS", "OVERRIDES", "CONSTRAINTS"):
        assert (ROOT / defaults[name]).is_file()


def test_two_builds_have_the_same_versions() -> None:
    """Of all that pyproject.toml and the files for CPUs ask for, on CPUs and on GPUs; renewed by requirements/renew."""
    wanted = PROJECT["dependencies"] + [each for extra in IN_IMAGES for each in PROJECT["optional-dependencies"][extra]]
    versions = pins(CONSTRAINTS)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement
    for file in ("cpu.txt", "torch-cpu.txt"):
        for name, version in pins(ROOT / "requirements" / file).items():
            assert versions[name] == Version(version).public, name
    unpinned = {line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")}
    assert unpinned == {f"{name}=={version}" for name, version in versions.items()}
    (installs,) = [run for run in instructions("RUN") if "-r pyproject.toml" in run]
    assert "${CONSTRAINTS:+--constraint ${CONSTRAINTS}}" in installs
    assert any("uv build" in run and "--build-constraint /src/requirements/constraints.txt" in run for run in LINES)


def test_what_renews_the_versions_asks_for_all_that_an_image_may_hold() -> None:
    said = (ROOT / "requirements" / "renew").read_text()
    assert set(re.findall(r"--extra (\w+)", said)) == set(IN_IMAGES)


def test_everything_that_is_copied_is_in_the_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / each).exists() for each in kept)
    rooms = {link.readlink().name for link in (ROOT / "areal").iterdir() if link.is_symlink()}
    assert rooms <= kept
    copied = {source for copy in instructions("COPY") if "--from" not in copy for source in copy.split()[:-1]} - {"."}
    assert all(any(source == each or source.startswith(f"{each}/") for each in kept) for source in copied)
