"""Run by several processes at once in one workspace, commands wait for each other; what they write is as from one."""

from __future__ import annotations

from pathlib import Path

import pytest
from embedded_workspace import fresh
from forks import differences, race, run, tree
from shell import Shell, named
from writing_commands import FORMS, TORTURE

SAME = [2, 4] if TORTURE else [2]
"""How many processes run the same command."""
DIFFERENT = {
    "profiles of two users": (
        "profile --max-new-tokens 2 --recent 1 --user TARGET",
        "profile --max-new-tokens 2 --recent 1 --user SHARER",
    ),
    "embeddings of two users": (
        "embed --encoder MODEL --out new.safetensors --user TARGET",
        "embed --encoder MODEL --out new.safetensors --user SHARER",
    ),
    "two sharers": (
        "train-sharer --plain --steps 1 --out new --user SHARER",
        "train-sharer --plain --steps 1 --out new --user TARGET",
    ),
    "two models' answers": (
        "predict --base --name new-base --max-new-tokens 2",
        "predict --name new --max-new-tokens 2",
    ),
    "two shards of sharers": (
        "train-sharer --plain --steps 1 --out new --users SHARER,TARGET --shard 1/2",
        "train-sharer --plain --steps 1 --out new --users SHARER,TARGET --shard 2/2",
    ),
    "a shard and all answers": (
        "predict --base --name new --max-new-tokens 2 --shard 2/2",
        "predict --base --name new --max-new-tokens 2",
    ),
    "a shard and all sharers": (
        "train-sharer --plain --steps 1 --out new --users SHARER,TARGET --shard 1/2",
        "train-sharer --plain --steps 1 --out new --users SHARER,TARGET",
    ),
    "a reader and a writer": ("pool verify", "pool build --force"),
    "gates and the pool of them": ("gate --plain --steps 1 --force", "pool list"),
}
"""Commands that meet in one place."""


@pytest.mark.parametrize("count", SAME)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_command_at_once(form: str, count: int, finished: Shell, tmp_path: Path) -> None:
    line = named(finished, FORMS[form])
    alone = fresh(finished, tmp_path)
    assert run(alone, line).code == 0
    wanted = tree(alone.root)
    shell = fresh(finished, tmp_path)
    ended = race(shell, [line] * count)
    # Who has been taken out of the pool by one is no longer there for the other.
    gone = [form.startswith("pool revoke") and "no such sharer" in one.output for one in ended]
    assert sum(gone) < count
    assert [one.code for one, away in zip(ended, gone, strict=True) if not away] == [0] * (count - sum(gone)), ended
    assert not differences(tree(shell.root), wanted)


@pytest.mark.parametrize("lines", DIFFERENT)
def test_commands_that_meet(lines: str, finished: Shell, tmp_path: Path) -> None:
    some = [named(finished, line) for line in DIFFERENT[lines]]
    one_after_the_other = fresh(finished, tmp_path)
    for line in some:
        assert run(one_after_the_other, line).code == 0
    wanted = tree(one_after_the_other.root)
    shell = fresh(finished, tmp_path)
    ended = race(shell, some)
    assert [one.code for one in ended] == [0, 0], ended
    assert not differences(tree(shell.root), wanted)
