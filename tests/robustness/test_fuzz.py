"""Every reader of every kind of file takes a damaged or forged one, or refuses it in words: no traceback, no gigabytes.

The short form runs always. `PERPCS_TORTURE=1` runs the long one, of more than 20,000 files.
"""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import signal
import sys
from pathlib import Path
from types import CodeType, FrameType

import pytest
from bounded import in_child, in_time
from hypothesis import HealthCheck, Phase, given, settings
from kinds_of_files import KINDS, Kind
from mutations import mutated
from valid_files import write_all
from writing_commands import TORTURE

import perpcs_cli.artifacts
from perpcs_cli.artifacts.io.typed_files import json_bytes
from perpcs_cli.cli.workspace.views import VIEWS, File, anything, plain
from perpcs_cli.errors import PerpcsError
from perpcs_cli.steps.inspect.kinds import kind_of

SHORT_CASES, LONG_CASES = 10, 750
CASES = LONG_CASES if TORTURE else SHORT_CASES

HOUSE = Path(perpcs_cli.artifacts.__file__).parent
NAMES = ("read", "open", "load")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file of every kind, made by our own writers."""
    root = tmp_path_factory.mktemp("files")
    write_all(root)
    # What reading and hypothesis import is imported once, and not in each child.
    warm = shutil.copytree(root, tmp_path_factory.mktemp("warm") / "files")
    for kind in KINDS:
        kind.read(warm)
    fuzz(Kind("secret", "secret.key", "plain", lambda _: None), warm, 5)
    fuzz(Kind("metrics", "metrics.json", "json", lambda _: None), warm, 5)
    return root


@pytest.fixture
def root(files: Path, tmp_path: Path) -> Path:
    """A copy of them, to change."""
    return shutil.copytree(files, tmp_path / "files")


def fuzz(kind: Kind, root: Path, cases: int) -> None:
    """Read mutations of the file of one kind."""
    path = root / kind.file
    valid = path.read_bytes()

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=not TORTURE,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(mutated(valid, kind.form))
    def attack(content: bytes) -> None:
        path.write_bytes(content)
        for read in (lambda: kind.read(root), lambda: look_at(path)):
            try:
                in_time(read)
            except PerpcsError as error:
                # What is shown must be text.
                str(error).encode()

    attack()


def look_at(path: Path) -> None:
    """What `perpcs validate` and `perpcs show` do with a file."""
    kind = kind_of(path)
    content = kind.read(path)
    kind.check(path, content)
    for text in (VIEWS.get(kind.name, anything)(File(path, content, 3)), json_bytes(plain(content)).decode()):
        text.encode()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_file_is_read_or_refused(kind: Kind, root: Path) -> None:
    said = in_child(lambda: fuzz(kind, root, CASES))
    assert not said, said


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_valid_file_is_read(kind: Kind, root: Path) -> None:
    kind.read(root)


def test_the_long_form_is_long() -> None:
    assert len(KINDS) * LONG_CASES >= 20_000


def readers() -> dict[CodeType, str]:
    """The public functions of the artifacts that read a file, by their code."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE.parent.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and name.split("_")[0] in NAMES:
                found[function.__code__] = f"{module.__name__}.{name}"
    return found


def test_every_reader_is_in_a_row(root: Path) -> None:
    """Not by its name in a list, but by what the rows call."""
    called: set[CodeType] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    known = readers()
    assert len(known) > 25
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        for kind in KINDS:
            kind.read(root)
    finally:
        sys.setprofile(before)
    assert {name for code, name in known.items() if code not in called} == set()


def test_a_traceback_is_found(root: Path) -> None:
    def careless(place: Path) -> None:
        if len((place / "secret.key").read_bytes()) != 32:
            raise KeyError("careless")

    said = in_child(lambda: fuzz(Kind("careless", "secret.key", "plain", careless), root, 200))
    assert "KeyError: 'careless'" in said


def test_gigabytes_are_found() -> None:
    assert "MemoryError" in in_child(lambda: bytearray(1 << 30))


def test_an_endless_loop_is_found() -> None:
    def endless() -> None:
        while True:
            pass

    with pytest.raises(TimeoutError, match="longer than 1 s"):
        in_time(endless, seconds=1)


def test_a_dead_process_is_found() -> None:
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)).startswith("the process died")
