"""Where a workspace stands, by what its files say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from shell import Shell

from perpcs_cli.cli.main import COMMANDS
from perpcs_cli.steps.inspect.status import NEXT, Status, status
from perpcs_cli.steps.inspect.step_state import Step
from perpcs_cli.steps.workspace import Places


def look(shell: Shell) -> dict[str, Step]:
    return {step.name: step for step in status(Places(shell.root)).steps}


def test_a_finished_path_is_done(walked: Shell) -> None:
    found = status(Places(walked.root))
    assert {step.name: step.state for step in found.steps if step.state != "done"} == {"mia": "missing"}
    assert found.next == "perpcs audit"
    steps = look(walked)
    assert steps["users"].what == "8 users"
    assert steps["pool build"].what.startswith("4 sharers, rank 8, ")
    assert steps["train-sharer"].bytes > steps["assemble"].bytes > 0


def test_an_empty_directory(tmp_path: Path) -> None:
    found = status(Places(tmp_path))
    assert {step.state for step in found.steps} == {"missing"}
    assert found.next == "perpcs init . --task TASK"


def changed_users(shell: Shell) -> None:
    with (shell.root / "users.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")


def gone_gate(shell: Shell) -> None:
    (shell.root / "sharers" / shell.ids("candidate")[0] / "gate.safetensors").unlink()


def gone_sharer(shell: Shell) -> None:
    shutil.rmtree(shell.root / "sharers" / shell.ids("candidate")[1])


def another_pool(shell: Shell) -> None:
    path = shell.root / "pool.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def gone_recipe(shell: Shell) -> None:
    (shell.root / "recipes" / f"{shell.ids('target')[0]}.json").unlink()


def stopped_prediction(shell: Shell) -> None:
    (shell.root / "predictions" / "base.jsonl").rename(shell.root / "predictions" / "base.partial.jsonl")


def changed_answer(shell: Shell) -> None:
    path = shell.root / "predictions" / "oppu.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def half_a_summary(shell: Shell) -> None:
    path = shell.root / "metrics" / "eval.json"
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "states", "command"),
    [
        (changed_users, {"split": "stale", "eval eval": "stale"}, "perpcs split --force"),
        (gone_gate, {"gate": "partial", "pool build": "stale"}, "perpcs gate"),
        (gone_sharer, {"train-sharer": "partial"}, "perpcs train-sharer"),
        (
            another_pool,
            {"assemble": "stale", "predict per-pcs": "stale"},
            "perpcs assemble --force",
        ),
        (gone_recipe, {"assemble": "partial"}, "perpcs assemble"),
        (stopped_prediction, {"predict base": "partial"}, "perpcs predict --base --name base"),
        (changed_answer, {"predict oppu": "stale", "eval eval": "stale"}, "perpcs predict --force"),
        (half_a_summary, {"eval eval": "broken"}, "perpcs eval --force"),
    ],
)
def test_what_is_no_longer_so(shell: Shell, change: object, states: dict[str, str], command: str) -> None:
    assert callable(change)
    change(shell)
    found = status(Places(shell.root))
    assert {step.name: step.state for step in found.steps if step.state not in ("done", "missing")} == states
    assert found.next == command
    assert all(step.why for step in found.steps if step.name in states)


def test_successors_are_commands_after_commands() -> None:
    for name, line in NEXT.items():
        assert name.split()[0] in COMMANDS and line.split()[0] == "perpcs" and line.split()[1] in COMMANDS


def test_the_command(walked: Shell) -> None:
    shown = walked("status")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1] == "next: perpcs audit"
    found = json.loads(walked("status --json").stdout)
    assert found["next"] == "perpcs audit" and isinstance(found["steps"], list)
    assert Status.__struct_fields__ == ("steps", "next")


def test_shards_are_no_predictions_of_their_own(shell: Shell) -> None:
    done = shell("predict --base --name parts --max-new-tokens 2 --shard 1/2")
    assert done.exit_code == 0, done.stderr
    steps = look(shell)
    (found,) = [step for name, step in steps.items() if "parts" in name]
    assert (found.name, found.state, found.what) == ("predict parts", "partial", "1 shards")
