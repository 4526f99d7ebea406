"""A command that several jobs run, each on a part of its users, makes what one process makes, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from embedded_workspace import EMBED, PRIME, fresh
from shell import DATA, USAGE, Shell, refused

MIA = "mia --recipes recipes-retrieve --resamples 5 --attacks loss,rmia --references 1 --out new.json"
FORMS = {
    "train-sharer": "train-sharer --plain --steps 1 --users ALL --out new",
    "train-sharer, together": "train-sharer --plain --steps 1 --users ALL --together 3 --out new",
    "gate": "gate --plain --steps 1 --together 2 --out new",
    "embed": f"{EMBED} --out new.safetensors",
    "embed, added": f"{EMBED}",
    "profile": "profile --max-new-tokens 2 --recent 1 --out new.jsonl",
    "assemble": "assemble --plain --top-k 2 --users ALL --out new",
    "retrieve": "retrieve --similar 2 --users ALL --out new",
    "prime": f"{PRIME},1 --traces new-traces --out new",
    "predict": "predict --base --max-new-tokens 3 --users ALL --name new",
    "predict, recipes": "predict --recipes recipes --max-new-tokens 3 --name new",
    "predict, swapped": "predict --recipes recipes-retrieve --swap --max-new-tokens 3 --users ALL --name new",
    "mia": f"{MIA} --max-items 2",
    "mia, small batches": f"{MIA} --batch-rows 3",
}
"""Each command that takes --shard."""


@pytest.fixture(scope="module")
def many(ready: Shell) -> Shell:
    """A workspace where everyone is embedded, with recipes of all users for retrieval. Tests only look at it."""
    done = ready(f"retrieve --similar 2 --users {everyone(ready)}")
    assert done.exit_code == 0, done.stderr
    return ready


def everyone(shell: Shell) -> str:
    lines = (shell.root / "users.jsonl").read_text().splitlines()
    return ",".join(json.loads(line)["user_id"] for line in lines)


def said(shell: Shell, line: str) -> str:
    done = shell(line.replace("ALL", everyone(shell)).replace("MODEL", str(shell.model)))
    assert done.exit_code == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [2, 5])
def test_shards_make_what_one_process_makes(form: str, count: int, many: Shell, tmp_path: Path) -> None:
    line = FORMS[form]
    alone = fresh(many, tmp_path)
    if form == "embed, added":
        (alone.root / "embeddings.safetensors").unlink()
        said(alone, f"{line} --users {everyone(alone).split(',')[0]}")
    said(alone, line)
    wanted = alone.walk()
    shell = fresh(many, tmp_path)
    if form == "embed, added":
        (shell.root / "embeddings.safetensors").unlink()
        said(shell, f"{line} --users {everyone(shell).split(',')[0]}")
    before = shell.walk()
    for number in range(count, 0, -1):
        said(shell, f"{line} --shard {number}/{count}")
    made = shell.walk()
    assert made != before
    # Nothing is left to compute: the model is not even loaded.
    assert "base: " not in said(shell, line)
    assert shell.walk().keys() == wanted.keys()
    assert shell.walk() == wanted


@pytest.mark.parametrize("form", FORMS)
def test_what_a_shard_lacks_is_made_by_the_command(form: str, many: Shell, tmp_path: Path) -> None:
    line = FORMS[form]
    alone = fresh(many, tmp_path)
    said(alone, line)
    wanted = alone.walk()
    shell = fresh(many, tmp_path)
    said(shell, f"{line} --shard 2/3")
    # Parts that overlap: who asked for another number of jobs.
    said(shell, f"{line} --shard 1/2")
    said(shell, line)
    assert shell.walk() == wanted
    # What is finished as a whole is finished for any shard.
    said(shell, f"{line} --shard 1/3")
    assert shell.walk() == wanted


def test_a_shard_writes_its_part_alone(many: Shell, tmp_path: Path) -> None:
    shell = fresh(many, tmp_path)
    users = everyone(shell).split(",")
    said(shell, "train-sharer --plain --steps 1 --users ALL --together 2 --out new --shard 2/3")
    # Eight users in four groups of two, of which three shards make one, one and two.
    assert sorted(path.name for path in (shell.root / "new").iterdir()) == sorted(users[2:4])
    done = shell("predict --base --max-new-tokens 3 --name new --shard 2/2 --json --users " + ",".join(users[:4]))
    journal = shell.root / "predictions/new.shard-2-of-2.partial.jsonl"
    assert json.loads(done.stdout) == {"path": str(journal.relative_to(shell.root)), "state": "made", "count": 4}
    rows = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert {row["user_id"] for row in rows} == set(users[2:4])
    again = shell("predict --base --max-new-tokens 3 --name new --shard 2/2 --json --users " + ",".join(users[:4]))
    assert json.loads(again.stdout)["state"] == "finished"


def test_a_shard_without_users_has_nothing_to_do(many: Shell, tmp_path: Path) -> None:
    shell = fresh(many, tmp_path)
    before = shell.walk()
    for line in (
        "train-sharer --plain --steps 1 --out new",
        f"{EMBED} --out new.safetensors",
        "profile --out new.jsonl",
    ):
        said(shell, f"{line} --users {shell.ids('target')[0]} --shard 1/2")
    assert shell.walk() == before


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("predict --base --name new --max-new-tokens 2", "--max-new-tokens 3"),
        ("profile --max-new-tokens 2 --out new.jsonl", "--recent 1"),
        (f"{EMBED} --out new.safetensors", "--max-length 9"),
        (f"{MIA} --max-items 2", "--resamples 6"),
    ],
)
def test_shards_of_other_settings_are_refused(line: str, other: str, many: Shell, tmp_path: Path) -> None:
    alone = fresh(many, tmp_path)
    said(alone, f"{line} {other}")
    wanted = alone.walk()
    shell = fresh(many, tmp_path)
    said(shell, f"{line} --shard 1/2")
    message = refused(shell(f"{line} {other}".replace("MODEL", str(shell.model))), DATA)
    assert "shard-1-of-2" in message
    assert "was made with other settings" in message
    said(shell, f"{line} {other} --force")
    assert shell.walk() == wanted


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part_is_refused(part: str, many: Shell) -> None:
    assert "part like 1/4" in refused(many(f"retrieve --shard={part}"), USAGE)


def test_a_file_of_all_traces_is_not_a_shards(many: Shell) -> None:
    message = refused(many(f"{PRIME} --pareto front.json --out new --shard 1/2"), USAGE)
    assert message.startswith("--pareto: is one file for all users")


def test_who_leaves_is_in_no_shard_either(many: Shell, tmp_path: Path) -> None:
    from perpcs_cli.artifacts.embeddings import read_embeddings

    shell = fresh(many, tmp_path)
    (shell.root / "embeddings.safetensors").unlink()
    for number in (1, 2):
        said(shell, f"{EMBED} --shard {number}/2")
    places = [shell.root / f"embeddings.shard-{number}-of-2.safetensors" for number in (1, 2)]
    sharer = shell.ids("candidate")[0]
    assert sum(sharer in read_embeddings(place).card.users for place in places) == 1
    said(shell, f"pool revoke {sharer} --recipes-then delete")
    assert not any(sharer in read_embeddings(place).card.users for place in places)
