"""The package: a wheel that holds all that it needs and runs with the declared dependencies only."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from perpcs_cli import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> set[str]:
    """The distributions that some requirements bring, with what those need in turn, as they are installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        one, extra = waiting.pop()
        if one.marker and not one.marker.evaluate({"extra": extra}):
            continue
        for wanted in ["", *one.extras]:
            if (one.name, wanted) in found:
                continue
            try:
                needs = distribution(one.name).requires or []
            except PackageNotFoundError:
                # A marker of another platform's may hold where the distribution itself is left out.
                continue
            found.add((one.name, wanted))
            waiting += [(Requirement(line), wanted) for line in needs]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree without a network."""
    where = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(where)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(where.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that has the wheel and its declared dependencies, and nothing else."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False, symlinks=True)
    packages = next(place.glob("lib/python*/site-packages"))
    for name in closure(PROJECT["dependencies"]):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            source, link = Path(str(distribution(name).locate_file(top))), packages / top
            if source.exists() and not link.exists():
                link.symlink_to(source)
    zipfile.ZipFile(wheel).extractall(packages)
    return place / "bin" / "python"


RUN = """
import sys
from importlib.metadata import entry_points
(one,) = entry_points(group="console_scripts", name="perpcs")
first, *lines = sys.stdin.read().splitlines()
from perpcs_cli.cli.main import app
for line in lines:
    try:
        app(line.split(), prog_name="perpcs")
    except SystemExit as end:
        assert not end.code, line
# The entry point makes the streams its own, once in a process.
sys.argv = ["perpcs", *first.split()]
one.load()()
"""


def perpcs(python: Path, where: Path, *lines: str) -> str:
    """What `perpcs LINE` prints for some lines in one process of the fresh environment, the first one last."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PERPCS_", "PYTHON"))}
    how = {"cwd": where, "env": clean, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([python, "-I", "-c", RUN], input="\n".join(lines), check=False, **how)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_wheel_holds_all_rooms_and_their_data(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("perpcs_cli/")}
    tree = {path for path in (ROOT / "perpcs_cli").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert inside == {str(path.relative_to(ROOT)) for path in tree}
    assert "perpcs_cli/py.typed" in inside


def test_the_wheel_brings_no_extra(wheel: Path, python: Path) -> None:
    script = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    absent = ["pytest", "hypothesis", "matplotlib", "pyarrow", "opacus", "gguf"]
    done = subprocess.run([python, "-I", "-c", script, *absent], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_wheel_runs_from_data_to_answers(python: Path, tiny_dir: Path, tmp_path: Path) -> None:
    assert perpcs(python, tmp_path, "--version") == f"perpcs {PROJECT['version']}\n"
    perpcs(
        python,
        tmp_path,
        "table --help",
        f"init . --task news_headline --model {tiny_dir} --device cpu --dtype float32",
        "synth --count 4 --history 2 --queries 1 --forms 2",
        "train-sharer --users shout-000,why-000 --plain --steps 1",
        "gate --plain --steps 1",
        "pool build",
        "assemble --user shout-001 --plain --top-k 2",
        "predict --user shout-001 --max-new-tokens 4",
        "eval predictions/per-pcs.jsonl --resamples 20",
        "report",
    )
    assert len((tmp_path / "predictions" / "per-pcs.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_one_version_everywhere() -> None:
    assert PROJECT["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_citation_names_both_papers() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    readme = (ROOT / "README.md").read_text()
    for paper in ("2406.10471", "2503.18008"):
        assert f"arXiv:{paper}" in text
        assert paper in readme
