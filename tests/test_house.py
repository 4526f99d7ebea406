"""The rules of the house: what may use what, how large rooms are, what is declared, and where things are."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "perpcs_cli"
FLOORS = ("cli", "experiments", "steps", "methods", "model", "tasks", "artifacts")
"""From the top down."""
ROOMS = sorted(path for path in HOUSE.rglob("*.py"))
MANY = {"artifacts": "one room a format"}
"""Folders that may hold more than a dozen rooms, and why."""
FEW, LONG = 12, 300
IMPORTED_AS = {"scikit-learn": "sklearn"}
LATE = {"perpcs_cli.model.training.dp_sgd"}
"""Rooms that are imported inside of functions themselves."""
INDIRECT = {"gguf", "snakemake"}
"""Declared, and imported by transformers, or run by people."""


def room_of(path: Path) -> str:
    """`perpcs_cli.steps.job` of a file; a package is its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """The full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = ROOT / node.module.replace(".", "/") / f"{name.name}.py"
                found.add(f"{node.module}.{name.name}" if inner.exists() else node.module)
    return found


ARROWS = {room_of(path): {one for one in imports_of(path) if one.startswith("perpcs_cli")} for path in ROOMS}


def floor_of(room: str) -> str | None:
    part = [*room.split("."), ""][1]
    return part if part in FLOORS else None


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Each circle that a walk from every node finds."""
    done: set[str] = set()
    found = []

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
            return
        if node in done:
            return
        for other in sorted(arrows.get(node, ())):
            walk(other, [*path, node])
        done.add(node)

    for node in sorted(arrows):
        walk(node, [])
    return found


def test_the_house_has_these_floors() -> None:
    assert {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FLOORS)


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_arrows_point_down(room: str) -> None:
    own = floor_of(room)
    for other in ARROWS[room]:
        theirs = floor_of(other)
        if own and theirs:
            assert FLOORS.index(own) <= FLOORS.index(theirs), f"{room} uses {other}"
        assert own or not theirs, f"{room} uses {other}"


def test_there_is_no_circle_of_rooms() -> None:
    assert circles(ARROWS) == []


def test_there_is_no_circle_of_wings() -> None:
    wings: dict[str, set[str]] = defaultdict(set)
    for room, others in ARROWS.items():
        for other in others:
            ends = [".".join(name.split(".")[:3]) if len(name.split(".")) > 3 else name for name in (room, other)]
            if ends[0] != ends[1]:
                wings[ends[0]].add(ends[1])
    assert circles(wings) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]


def test_no_folder_is_crowded() -> None:
    rooms: dict[str, int] = defaultdict(int)
    for path in ROOMS:
        if path.name != "__init__.py":
            rooms[str(path.parent.relative_to(HOUSE))] += 1
    assert {folder: number for folder, number in rooms.items() if number > FEW and folder not in MANY} == {}


@pytest.mark.parametrize("path", ROOMS, ids=room_of)
def test_a_long_room_says_why(path: Path) -> None:
    text = path.read_text()
    if len(text.splitlines()) > LONG:
        head = ast.get_docstring(ast.parse(text)) or ""
        assert "One room, though long:" in head, f"{len(text.splitlines())} lines"


@pytest.mark.parametrize("path", ROOMS, ids=room_of)
def test_every_room_and_everything_public_in_it_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_the_tests_mirror_the_tree() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        if folder.parts and folder.parts[0] != "robustness":
            assert (HOUSE / folder).is_dir(), f"{path} is a test of no folder"


def declared() -> dict[str, set[str]]:
    """{"": what every installation has, extra: what it adds}, by the names on PyPI."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {re.split(r"[<>=!~ \[]", one)[0] for one in some} for extra, some in lists.items()}


def module_of(name: str) -> str:
    return IMPORTED_AS.get(name, name.replace("-", "_"))


@cache
def third_party() -> set[str]:
    found = {one.split(".")[0] for path in ROOMS for one in imports_of(path)}
    return found - set(sys.stdlib_module_names) - {"perpcs_cli", "__future__"}


def test_what_is_imported_is_declared() -> None:
    known = {module_of(name) for extra, names in declared().items() if extra != "dev" for name in names}
    assert third_party() - known == set()


def test_what_is_declared_is_imported() -> None:
    wanted = {name for extra, names in declared().items() if extra != "dev" for name in names}
    assert {name for name in wanted if module_of(name) not in third_party()} == INDIRECT


def test_extras_are_imported_inside_of_functions() -> None:
    extras = {module_of(name) for extra, names in declared().items() if extra not in ("", "dev") for name in names}
    for path in ROOMS:
        if room_of(path) in LATE:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [name.name for name in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {name.split(".")[0] for name in names} & extras, f"{path} needs an extra at once"


PAGES = (ROOT / "docs" / "development.md").read_text()
PLACES = re.findall(r"^\| (.+?) \| `(perpcs_cli/[^`]+)` `(\w+)` \|$", PAGES, flags=re.M)


def test_the_table_of_places_is_read() -> None:
    assert len(PLACES) > 40
    assert len(PLACES) == PAGES.count("| `perpcs_cli/")


@pytest.mark.parametrize(("what", "place", "name"), PLACES)
def test_what_is_where_is_there(what: str, place: str, name: str) -> None:
    module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
    assert hasattr(module, name), what


@pytest.mark.parametrize(
    "place", sorted(set(re.findall(r"`((?:cli|experiments|steps|methods|model|tasks|artifacts)/[\w/]+\.py)`", PAGES)))
)
def test_the_walks_go_through_rooms_that_exist(place: str) -> None:
    assert (HOUSE / place).is_file()


def test_every_step_command_has_a_row() -> None:
    from perpcs_cli.steps import __all__ as steps

    listed = {name for _, _, name in PLACES}
    for step in (
        "assemble",
        "prime",
        "retrieve",
        "train_sharer",
        "gate",
        "adapt",
        "build_pool",
        "revoke",
        "predict",
        "mia",
    ):
        assert step in steps
        assert step in listed


def pages() -> dict[str, object]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Its typed tables look their annotations up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.PAGES


GENERATED = ["commands.md", "settings.md", "files.md", "fidelity.md"]


@pytest.mark.parametrize("name", GENERATED)
def test_a_page_that_is_made_from_the_code_is_fresh(name: str) -> None:
    made = pages()
    assert list(made) == GENERATED
    assert (ROOT / "docs" / name).read_text() == made[name](), "run `make docs`"


def test_artifacts_need_no_torch_to_be_imported() -> None:
    rooms = [room for room in ARROWS if floor_of(room) == "artifacts"]
    script = f"import sys, importlib; [importlib.import_module(m) for m in {rooms!r}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
