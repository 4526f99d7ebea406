"""A command that has nothing left to do succeeds, writes nothing, and shows what is finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from embedded_workspace import PRIME, embedded
from helpers import hub_cache
from shell import STEPS, Shell, named

STARTED = {
    "import": "import users.jsonl --out imported.jsonl",
    "profile": "profile --max-new-tokens 4 --recent 1",
    "select": "select --clusters 2 --min-items 1 --out chosen",
    "pool build --pseudonymize": "pool build --pseudonymize --out keyed.json",
    "retrieve": "retrieve --similar 2",
    "prime": f"{PRIME} --user TARGET",
}
"""The lines whose outputs are made here; the others have been walked."""
LINES = {
    **{name: STEPS[name] for name in ("synth", "split", "adapt", "train-sharer", "gate", "pool build", "assemble")},
    **STARTED,
    "embed": "embed --encoder MODEL",
}
ROWS = ("train-sharer", "gate", "assemble", "retrieve", "prime")
"""The commands that show a row for each user."""
SUMS = {"profile": ("profiles", "written"), "embed": ("users", "embedded")}
"""The commands that write all users into one file, and count: what is there, and what is new."""


@pytest.fixture(scope="module")
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A workspace in which each command has run."""
    shell = embedded(walked, tmp_path_factory.mktemp("ready"))
    for line in STARTED.values():
        done = shell(named(shell, line))
        assert done.exit_code == 0, done.stderr
    return shell


@pytest.mark.parametrize("command", LINES)
def test_a_rerun_writes_nothing_and_shows_what_is_finished(near: Shell, command: str) -> None:
    line = named(near, LINES[command])
    before = near.walk()
    again = near(line)
    assert again.exit_code == 0, again.stderr
    assert again.stdout
    assert "to do" not in again.stdout
    assert "finished already" in again.stderr
    found = json.loads(near(f"{line} --json").stdout)
    assert near.walk() == before
    if command in ROWS:
        assert found
        assert {row["state"] for row in found} == {"finished"}
        assert all((near.root / row["path"]).exists() and row["user_id"] in row["path"] for row in found)
        assert not any("provenance" in row for row in found)
    elif command in SUMS:
        there, new = SUMS[command]
        assert (found[new], found["to_do"]) == (0, 0)
        assert found[there] > 0
    elif command == "select":
        # It shows the artifact itself.
        assert found == json.loads((near.root / "chosen" / "selection.json").read_text())
    else:
        assert found["state"] == "finished"
        assert (near.root / found["path"]).exists()


def test_quiet_says_nothing_of_it(near: Shell) -> None:
    again = near(f"{LINES['assemble']} --quiet")
    assert (again.exit_code, again.stderr) == (0, "")
    assert len(again.stdout.splitlines()) == len(near.ids("target"))


def test_force_makes_it_again(near: Shell) -> None:
    before = near.walk()
    rows = json.loads(near(f"{LINES['assemble']} --force --json").stdout)
    assert {row["state"] for row in rows} == {"made"}
    assert near.walk() == before


@pytest.mark.parametrize("command", ["adapt", *ROWS, *SUMS])
def test_a_rerun_decides_without_torch_or_the_model(ready: Shell, tmp_path: Path, command: str) -> None:
    line = named(ready, LINES[command])
    # The first rerun looks at the model, which retrieval does not need, and keeps what it has found.
    for looks in (command != "retrieve", False):
        assert apart(ready, line, PERPCS_CACHE=str(tmp_path)) == (True, looks)


@pytest.mark.parametrize("command", ["pool build", "pool build --pseudonymize --out keyed.json"])
def test_a_pool_is_looked_through_without_torch(ready: Shell, tmp_path: Path, command: str) -> None:
    copies = "--pseudonymize" in command
    # The first look at copies compares them with the sharers' own.
    for looks in (copies, False):
        assert apart(ready, command, PERPCS_CACHE=str(tmp_path)) == (True, looks)
    assert apart(ready, "audit", PERPCS_CACHE=str(tmp_path)) == (False, False)


def test_a_model_of_the_hub_is_known_by_its_snapshot(near: Shell, tmp_path: Path) -> None:
    hub_cache(tmp_path / "hub", "owner/tiny", near.model)
    where = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PERPCS_CACHE": str(tmp_path / "cache")}
    line = "embed --encoder owner/tiny --out hub.safetensors"
    assert [apart(near, line, **where) for _ in range(2)] == [(False, True), (True, False)]
    # Another commit is looked at, and has the same model.
    hub_cache(tmp_path / "hub", "owner/tiny", near.model, commit="b" * 40)
    assert [apart(near, line, **where) for _ in range(2)] == [(True, False), (True, False)]


def apart(shell: Shell, line: str, **environment: str) -> tuple[bool, bool]:
    """Run a command in a process of its own: (whether it is finished already, whether torch was imported)."""
    code = f"""import sys
from perpcs_cli.cli.main import app
try:
    app({line.split()!r})
finally:
    print("torch" in sys.modules)"""
    command, whole = [sys.executable, "-c", code], {**os.environ, **environment}
    done = subprocess.run(command, cwd=shell.root, env=whole, capture_output=True, text=True, check=True)
    return "finished already" in done.stderr, done.stdout.splitlines()[-1] == "True"
