"""`--dry-run` says what is to do, and leaves no file behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from embedded_workspace import EMBED, PRIME
from shell import Shell, named

PLAIN = "--plain --steps 1"
LINES = {
    "import": "import users.jsonl --out new.jsonl",
    "synth": "synth --count 3 --history 3 --queries 1 --out new.jsonl",
    "split": "split --targets 2 --files --out new",
    "select": "select --clusters 2 --min-items 1 --out new",
    "adapt": f"adapt {PLAIN} --save-merged new-merged --out new",
    "train-sharer": f"train-sharer {PLAIN} --out new",
    "gate": f"gate {PLAIN} --out new",
    "pool build": "pool build --out new.json",
    "pool build --pseudonymize": "pool build --pseudonymize --out new.json",
    "assemble": "assemble --plain --top-k 2 --out new",
    "retrieve": "retrieve --similar 2 --out new",
    "prime": f"{PRIME} --pareto new.json --traces new-traces --out new",
    "report": "report --out new.html",
    "profile": "profile --max-new-tokens 4 --recent 1 --out new.jsonl",
    "embed": f"{EMBED} --out new.safetensors",
}
ROWS = ("train-sharer", "gate", "assemble", "retrieve", "prime")
"""The commands that show a row for each user."""


def everything(shell: Shell) -> set[Path]:
    """Files and directories, with those whose names begin with a dot."""
    return set(shell.root.rglob("*"))


@pytest.mark.parametrize("command", LINES)
def test_it_writes_nothing_and_says_what_is_to_do(near: Shell, command: str) -> None:
    line = f"{named(near, LINES[command])} --dry-run"
    before, places = near.walk(), everything(near)
    done = near(line)
    assert done.exit_code == 0, done.stderr
    # `select` shows whom it would select, so it says on the other stream that they are not written.
    assert "to do" in (done.stderr if command == "select" else done.stdout)
    found = json.loads(near(f"{line} --json").stdout)
    assert (near.walk(), everything(near)) == (before, places)
    if command in ROWS:
        assert found
        assert {row["state"] for row in found} == {"to do"}
    elif command in ("profile", "embed"):
        assert found["to_do"] > 0
    elif command != "select":
        assert found["state"] == "to do"


@pytest.mark.parametrize("flags", ["", "--save-merged new-merged"])
def test_a_finished_adapter_is_not_recorded(near: Shell, flags: str) -> None:
    """Neither perpcs.toml nor the merged model is written where the adapter is there already."""
    line = f"adapt --plain --steps 1 --out new {flags}"
    assert near("adapt --plain --steps 1 --out new --no-record").exit_code == 0
    before = near.walk()
    done = near(f"{line} --dry-run --json")
    assert json.loads(done.stdout)["state"] == "finished"
    assert near.walk() == before


def test_some_are_finished(near: Shell) -> None:
    done, left = near.ids("target")
    line = "assemble --plain --top-k 2 --out new"
    assert near(f"{line} --user {done}").exit_code == 0
    rows = json.loads(near(f"{line} --dry-run --json").stdout)
    assert [(row["user_id"], row["state"]) for row in rows] == [(done, "finished"), (left, "to do")]
    assert not (near.root / "new" / f"{left}.json").exists()


REFUSED = {
    "no room": (
        f"train-sharer {PLAIN} --out new --max-length 8",
        f"gate {PLAIN} --out new --max-length 8",
        "adapt --plain --steps 1 --out new --max-length 8",
        "assemble --plain --top-k 2 --out new --max-length 8",
        f"{PRIME} --out new --traces new-traces --max-length 8",
        "predict --base --name new --max-length 8",
        "profile --max-new-tokens 2 --out new.jsonl --max-length 8",
        "mia --recipes few --attacks loss --resamples 0 --out new.json --max-length 8",
    ),
    "no such user": ("train-sharer --user nobody", "gate --user nobody", "assemble --user nobody", "predict --user no"),
    "another base": ("gate --task-adapter none", "assemble --task-adapter none", "predict --task-adapter none"),
    "nothing to write": ("synth --out users.jsonl/x", f"train-sharer {PLAIN} --out perpcs.toml"),
}


@pytest.mark.parametrize("line", [line for lines in REFUSED.values() for line in lines])
def test_it_refuses_what_the_run_refuses(near: Shell, line: str) -> None:
    if "few" in line:
        assert near("retrieve --similar 2 --out few").exit_code == 0
    before = near.walk()
    dry = near(f"{line} --dry-run").exit_code
    assert near.walk() == before
    assert dry == near(line).exit_code != 0
