"""`perpcs show` and `perpcs validate`: every kind of file, told by its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import Shell
from valid_files import write_all

from perpcs_cli.cli.workspace.views import VIEWS
from perpcs_cli.steps.inspect.kinds import BY_FORMAT, BY_KEYS, PACKED, kind_of
from perpcs_cli.steps.inspect.validate import validate


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a valid file of every kind."""
    root = tmp_path_factory.mktemp("everything")
    write_all(root)
    return root


def test_every_kind_is_found(everything: Path) -> None:
    found = {one.kind for one in validate(everything)}
    known = {kind.name for kind in (PACKED, *BY_FORMAT.values(), *BY_KEYS.values())}
    assert set(VIEWS) <= known
    assert known - found == set()


def test_valid_files_are_in_order(walked: Shell) -> None:
    done = walked("validate .")
    assert done.exit_code == 0
    assert "all in order" in done.stdout
    assert json.loads(walked("validate recipes --json").stdout)["ok"]


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("predictions/base.jsonl", lambda data: data + b"\n", "does not hold the predictions"),
        ("users.jsonl", lambda data: data[:-20], "truncated"),
        ("pool.json", lambda data: data.replace(b'"rank": 8', b'"rank": 9'), "rank"),
        ("splits/split.json", lambda data: data.replace(b"perpcs.split/1", b"perpcs.split/9"), "expected the format"),
        ("splits/split.json", lambda data: data[:50], "not valid JSON"),
    ],
)
def test_what_is_wrong_is_said(shell: Shell, file: str, change: object, problem: str) -> None:
    path = shell.root / file
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    done = shell("validate .")
    assert done.exit_code == 3
    assert any(line.startswith(file) and problem in line for line in done.stdout.splitlines()), done.stdout
    alone = shell(f"validate {file}")
    assert alone.exit_code == 3 and problem in alone.stdout + alone.stderr


def test_recipes_of_another_pool(shell: Shell) -> None:
    path = shell.root / "pool.json"
    path.write_bytes(path.read_bytes() + b"\n")
    user = shell.ids("target")[0]
    assert "is of another pool" in shell(f"validate recipes/{user}.json").stdout


@pytest.mark.parametrize("line", ["show", "validate"])
@pytest.mark.parametrize(
    ("file", "message"),
    [("notes.txt", "no kind of file"), ("notes.json", "no kind of file"), ("nothing.json", "no such file")],
)
def test_files_of_others(tmp_path: Path, line: str, file: str, message: str) -> None:
    for name in ("notes.txt", "notes.json"):
        (tmp_path / name).write_text('{"format": "another/1"}', encoding="utf-8")
    done = Shell(tmp_path, tmp_path)(f"{line} {file}")
    assert (done.exit_code, message in done.stderr) == (3, True)


def test_everything_can_be_shown(walked: Shell) -> None:
    for one in validate(walked.root):
        place = one.path.relative_to(walked.root)
        assert walked(f"show {place}").stdout, place
        assert json.loads(walked(f"show {place} --json").stdout)["kind"] == one.kind


def test_a_recipe_is_a_map(walked: Shell) -> None:
    user = walked.ids("target")[0]
    lines = walked(f"show recipes/{user}.json").stdout.splitlines()
    assert lines[0].split() == ["user", user]
    header = next(place for place, line in enumerate(lines) if line.split()[:1] == ["layer"])
    assert set(lines[header].split()[1:]) == {"q", "k", "v", "o"}
    # Two layers, and two sharers in each cell, whose weights are percents.
    cells = [line.split()[1:] for line in lines[header + 2 :]]
    assert len(cells) == 2
    for row in cells:
        pairs = [int(one[1:]) + int(two[1:]) for one, two in zip(row[::2], row[1::2], strict=True)]
        assert all(abs(total - 100) <= 1 for total in pairs) and len(pairs) == 4


def test_predictions_stand_beside_their_references(walked: Shell) -> None:
    first = walked("show predictions/base.jsonl --rows 1").stdout.splitlines()
    users = [json.loads(line) for line in (walked.root / "users.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = {query["id"]: query["output"] for user in users for query in user["queries"]}
    assert answers[first[2].split()[1]][:20] in first[2]
    assert first[-1].startswith("…")


def test_an_adapter_is_shown_by_its_norms(walked: Shell) -> None:
    sharer = walked.ids("candidate")[0]
    found = json.loads(walked(f"show sharers/{sharer} --json").stdout)["content"]
    assert found["user_id"] == sharer and len(found["norms"]["rows"]) == 2
    assert all(value > 0 for row in found["norms"]["rows"] for value in row)
    assert kind_of(walked.root / "sharers" / sharer).name == "adapter"
