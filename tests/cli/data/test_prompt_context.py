"""What prompts show reaches every command, and what is held out reaches none."""

from __future__ import annotations

import json

import pytest
from shell import USAGE, Shell, refused

from perpcs_cli.artifacts.adapter import divided, open_adapter
from perpcs_cli.artifacts.gate import read_gates
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.predictions import read_predictions
from perpcs_cli.artifacts.users import held_out, read_users
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.prompts import PLAIN, digest
from perpcs_cli.tasks.spec import get_task

HEADLINES = get_task("news_headline")


def test_predictions_know_what_their_prompts_showed(shell: Shell) -> None:
    target = shell.ids("target")[0]
    line = f"predict --base --user {target} --max-new-tokens 8 --out"

    for name, flags in {"none": "", "rag": "--retrieve 2", "random": "--random-history 2"}.items():
        done = shell(f"{line} {name}.jsonl {flags}")
        assert done.exit_code == 0, done.stderr

    outputs = {name: read_predictions(shell.root / f"{name}.jsonl") for name in ("none", "rag", "random")}
    shown = json.loads((shell.root / "rag.meta.json").read_text())["provenance"]["settings"]["prompts"]
    assert shown == {"retrieve": 2, "random_history": 0, "profile": False}
    assert len({tuple(row.output for row in rows) for rows in outputs.values()}) > 1
    again = shell(f"{line} rag.jsonl --retrieve 1")
    assert "prompts.retrieve 2 -> 1" in refused(again, 3)


@pytest.mark.parametrize("line", ["train-sharer", "gate", "assemble --top-k 2", "adapt --out other"])
def test_training_flags_that_contradict_each_other(shell: Shell, line: str) -> None:
    assert "shows nothing of the history" in refused(shell(f"{line} --plain --retrieve 1"), USAGE)
    assert "choose one" in refused(shell(f"{line} --retrieve 1 --random-history 1"), USAGE)


def test_assembly_sees_the_context_that_is_asked_for(shell: Shell) -> None:
    target = shell.ids("target")[0]

    texts = []
    for flags in ("--plain", "--retrieve 1", "--random-history 2"):
        done = shell(f"assemble --user {target} --top-k 2 --force {flags}")
        assert done.exit_code == 0, done.stderr
        texts.append((shell.root / "recipes" / f"{target}.json").read_text())

    recipes = [json.loads(text) for text in texts]
    assert len({json.dumps(recipe["weights"]) for recipe in recipes}) == 3
    assert [recipe["provenance"]["settings"]["prompts"]["random_history"] for recipe in recipes] == [0, 0, 2]


def test_held_out_items_are_seen_neither_by_the_lora_nor_by_its_gates(shell: Shell) -> None:
    sharer = shell.ids("candidate")[0]
    user = read_users(shell.root / "users.jsonl")[sharer]

    for line in (
        f"train-sharer --user {sharer} --steps 1 --plain --hold-out 0.4 --recent 3 --out held",
        f"gate --sharers held --user {sharer} --steps 1 --plain --recent 2",
    ):
        done = shell(line)
        assert done.exit_code == 0, done.stderr

    adapter = open_adapter(shell.root / "held" / sharer)
    trained, away = divided(adapter, user)
    assert (len(trained.history), len(away.history)) == (2, 1)
    assert sorted(map(user.history.index, trained.history + away.history)) == [1, 2, 3]
    assert adapter.card is not None
    assert adapter.card.provenance.inputs == {"examples": digest(training_prompts(HEADLINES, trained, PLAIN))}
    gates = read_gates(adapter.path / "gate.safetensors")[1]
    assert gates.provenance.inputs["examples"] == digest(training_prompts(HEADLINES, trained, PLAIN))


def test_without_hold_out_everything_is_seen(shell: Shell) -> None:
    sharer = shell.ids("candidate")[0]
    user = read_users(shell.root / "users.jsonl")[sharer]

    trained, away = divided(open_adapter(shell.root / "sharers" / sharer), user)

    assert trained == user
    assert away.history == []


def test_a_history_is_divided_by_seed_and_never_empty(shell: Shell) -> None:
    user = read_users(shell.root / "users.jsonl")[shell.ids("candidate")[0]]
    pairs = {seed: held_out(user, 0.5, seed) for seed in range(6)}

    assert pairs[0] == held_out(user, 0.5, 0)
    assert len({hashing.digest_value(away) for _, away in pairs.values()}) > 1
    for trained, away in (*pairs.values(), held_out(user, 0.01, 0), held_out(user, 0.99, 0)):
        assert trained.history and away.history
        assert sorted(map(user.history.index, trained.history + away.history)) == list(range(len(user.history)))
    with pytest.raises(DataError, match="too few to keep one away"):
        held_out(type(user)(user_id="u", history=user.history[:1]), 0.5, 0)
