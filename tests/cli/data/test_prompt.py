"""`perpcs prompt`: what the model sees is what the commands send it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import load_base
from shell import USAGE, Shell, refused

from perpcs_cli.artifacts.users import read_users, write_users
from perpcs_cli.model.engine.batching import encode
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.prompts import Shown
from perpcs_cli.tasks.spec import get_task


def rows(shell: Shell, line: str) -> list[dict[str, Any]]:
    done = shell(f"prompt --json {line}")
    assert done.exit_code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_it_shows_each_query_of_a_target_with_its_tokens(walked: Shell) -> None:
    user = read_users(walked.root / "users.jsonl")[walked.ids("target")[0]]

    shown = rows(walked, f"--user {user.user_id}")

    assert [(row["user_id"], row["id"]) for row in shown] == [(user.user_id, query.id) for query in user.queries]
    for row in shown:
        assert row["prompt"].endswith(" Headline:") and row["answer"] == ""
        parts = {name: count for name, count in row["tokens"].items() if name != "all"}
        assert row["tokens"]["all"] == sum(parts.values()) and parts["answer"] == 0


def test_training_prompts_are_those_that_training_encodes(walked: Shell) -> None:
    sharer = walked.ids("candidate")[0]
    user = read_users(walked.root / "users.jsonl")[sharer]
    base = load_base(str(walked.model), targets=("q_proj",), device="cpu", dtype="float32")
    expected = training_prompts(get_task("news_headline"), user, Shown(retrieve=2))

    shown = rows(walked, f"--user {sharer} --for train-sharer --retrieve 2")

    assert len(shown) == 2 * len(user.history) - 1
    for row, prompt in zip(shown, expected, strict=True):
        encoded = encode(base, prompt, 2048)
        assert row["prompt"] == base.tokenizer.decode(encoded.prompt)
        assert row["answer"] == base.tokenizer.decode(encoded.answer)
        assert row["cut"] == encoded.cut


def test_every_command_has_its_prompts(walked: Shell) -> None:
    target, candidate = walked.ids("target")[0], walked.ids("candidate")[0]
    size = len(read_users(walked.root / "users.jsonl")[target].history)

    count = {
        line: len(rows(walked, f"--user {target} --for {line}"))
        for line in ("predict", "prime", "assemble --plain", "gate", "adapt", "train-sharer --plain --hold-out 0.5")
    }

    # PriME scores on the published 80 % of a history of headlines.
    assert count == {
        "predict": 2,
        "prime": round(0.8 * size),
        "assemble --plain": size,
        "gate": 2 * size - 1,
        "adapt": 2,
        "train-sharer --plain --hold-out 0.5": size // 2,
    }
    assert len(rows(walked, f"--user {candidate} --for gate --plain --first 2")) == 2


def test_users_are_those_of_the_command(walked: Shell) -> None:
    shown = {line: {row["user_id"] for row in rows(walked, f"--for {line}")} for line in ("adapt", "prime", "gate")}
    assert shown == {
        "adapt": set(walked.ids("base")),
        "prime": set(walked.ids("target")),
        "gate": set(walked.ids("candidate")),
    }


def test_a_command_s_own_flags_change_its_prompts(walked: Shell) -> None:
    target = walked.ids("target")[0]
    size = len(read_users(walked.root / "users.jsonl")[target].history)

    assert len(rows(walked, f"--user {target} --for prime --data-fraction 0.5")) == size // 2
    both = rows(walked, f"--user {target} --for prime --data-fraction 1 --prompts both")
    assert [row["id"] for row in both] == [row["id"] for row in rows(walked, f"--user {target} --for assemble")]
    assert len(both) == 2 * size - 1
    assert len(rows(walked, f"--user {target} --for adapt --plain --source both")) == 2 + size
    roomy, narrow = (
        rows(walked, f"--user {target} --max-length 256 --max-new-tokens {new}")[0]["cut"] for new in (8, 200)
    )
    assert roomy < narrow


def test_text_names_user_query_and_tokens(walked: Shell) -> None:
    target = walked.ids("target")[0]

    text = walked(f"prompt --user {target} --for assemble --plain --first 1 --max-length 100").stdout

    head, *lines = text.splitlines()
    assert head.startswith(f"# {target} ")
    assert "tokens (instruction" in head and " cut)" in head
    assert lines[0].endswith("### User Instruction:")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--id nobody", "no such query or item: 'nobody'"),
        ("--plain", "--plain: predict has no such flag"),
        ("--for gate --plain --retrieve 1", "shows nothing of the history"),
        ("--retrieve 1 --random-history 2", "choose one"),
        ("--recent 2", "--recent: predict has no such flag"),
        ("--for assemble --hold-out 0.5", "--hold-out: assemble has no such flag"),
        ("--for gate --source history", "--source: gate has no such flag"),
        ("--for gate --prompts both", "--prompts: gate has no such flag"),
        ("--data-fraction 0.5", "--data-fraction: predict has no such flag"),
        ("--for prime --max-new-tokens 5", "--max-new-tokens: prime has no such flag"),
        ("--for prime --data-fraction 2", "prime.data_fraction must be above 0 and at most 1"),
        ("--with-profile", "has no profile text"),
    ],
)
def test_mistakes(walked: Shell, line: str, message: str) -> None:
    assert message in refused(walked(f"prompt {line}"), 3 if "profile" in message else USAGE)


def test_white_space_is_a_setting_of_the_workspace(shell: Shell) -> None:
    users = read_users(shell.root / "users.jsonl")
    name = shell.ids("candidate")[0]
    users[name].history[0]["text"] = "Two\n\nlines."
    write_users(shell.root / "users.jsonl", list(users.values()))
    line = f"--user {name} --for train-sharer --plain --first 1"
    assert "Two\n\nlines." in rows(shell, line)[0]["prompt"]
    settings = shell.root / "perpcs.toml"
    assert 'white_space = "kept"' in settings.read_text()
    settings.write_text(settings.read_text().replace('white_space = "kept"', 'white_space = "collapsed"'))
    assert "Two lines." in rows(shell, line)[0]["prompt"]
    settings.write_text(settings.read_text().replace('white_space = "collapsed"', 'white_space = "cut"'))
    assert "white_space" in refused(shell(f"prompt {line}"), USAGE)
