"""`perpcs chat`: it answers as `perpcs predict` does, to what is typed, piped in or given."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import write_sharer
from shell import DATA, USAGE, Shell, refused
from typer.testing import CliRunner, Result

from perpcs_cli.artifacts.users import User, read_users
from perpcs_cli.cli.main import app
from perpcs_cli.model.loading.base import Base
from perpcs_cli.steps.evaluate.chat import open_chat
from perpcs_cli.steps.workspace import Who, open_workspace
from perpcs_cli.tasks.examples import query_prompts
from perpcs_cli.tasks.spec import get_task

RUN = "from perpcs_cli.cli.entry import run; run()"
SHORT = ["--max-new-tokens", "8"]


def chat(shell: Shell, *words: str, data: bytes | None = None) -> Result:
    """`perpcs chat WORDS`, with `data` piped in."""
    own = {name: None for name in os.environ if name.startswith("PERPCS_")}
    with contextlib.chdir(shell.root):
        return CliRunner(env=own).invoke(app, ["chat", *SHORT, *words], input=data)


def said(shell: Shell, *words: str, data: bytes | None = None) -> dict[str, Any]:
    """What it says with --json."""
    done = chat(shell, *words, "--json", data=data)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def target(shell: Shell) -> User:
    """The first target."""
    return read_users(shell.root / "users.jsonl")[shell.ids("target")[0]]


def predicted(shell: Shell, line: str) -> dict[tuple[str, str], str]:
    """The answers of `perpcs predict LINE`."""
    done = shell(f"predict --max-new-tokens 8 --out - {line}")
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    return {(row["user_id"], row["id"]): row["output"] for row in rows}


@pytest.mark.parametrize("how", ["", "--retrieve 2", "--decode-temperature 0.7 --decode-top-p 0.9", "--max-length 90"])
def test_all_answers_are_those_of_predict(walked: Shell, how: str) -> None:
    user, sharer = target(walked), walked.ids("candidate")[0]
    systems = {
        "base": "--base --task-adapter none",
        "adapted": "--base",
        "per-pcs": "--recipes recipes",
        sharer: f"--sharer {sharer}",
        "oppu": "--own oppu",
    }
    wanted = {name: predicted(walked, f"{flags} --user {user.user_id} {how}") for name, flags in systems.items()}
    assert len({tuple(found.values()) for found in wanted.values()}) > 2
    named = ["--recipes", "recipes", "--sharer", sharer, "--own", "oppu"]
    for query in user.queries:
        found = said(walked, "--user", user.user_id, query.input, *named, *how.split())
        assert found["answers"] == {name: answers[user.user_id, query.id] for name, answers in wanted.items()}
        assert list(found["answers"]) == ["base", "adapted", "per-pcs", sharer, "oppu"]
        assert (found["user_id"], found["prompt"], found["reference"]) == (user.user_id, query.input, query.output)


def test_a_merge_of_factors_has_passes_of_its_own(shell: Shell) -> None:
    user, sharer = target(shell), shell.ids("candidate")[0]
    assert shell("assemble --plain --top-k 2 --merge factor --out factors").exit_code == 0
    wanted = predicted(shell, f"--recipes factors --user {user.user_id}")
    words = ["--recipes", "recipes", "--recipes", "factors", "--sharer", sharer]
    found = said(shell, "--user", user.user_id, user.queries[0].input, *words)["answers"]
    assert list(found) == ["base", "adapted", "per-pcs", "factors", sharer]
    assert found["factors"] == wanted[user.user_id, user.queries[0].id]
    assert found["per-pcs"] == said(shell, "--user", user.user_id, user.queries[0].input)["answers"]["per-pcs"]


def test_without_a_task_adapter_there_is_one_base(walked: Shell, tiny: Base, tmp_path: Path) -> None:
    user = target(walked)
    write_sharer(tmp_path / "mine", tiny, 3)
    given = ["--adapter", str(tmp_path / "mine"), "--task-adapter", "none"]
    found = said(walked, "--user", user.user_id, user.queries[0].input, *given)["answers"]
    assert list(found) == ["base", "mine"]
    wanted = predicted(walked, f"--user {user.user_id} {' '.join(given)}")
    assert found["mine"] == wanted[user.user_id, user.queries[0].id] != found["base"]
    other = chat(walked, "--user", user.user_id, "x", "--task-adapter", "none")
    assert "built on another base model" in refused(other, DATA)


def test_the_article_alone_is_put_into_the_wording_of_the_task(walked: Shell) -> None:
    user = target(walked)
    article = user.queries[0].input.partition("article: ")[2]
    whole = said(walked, "--user", user.user_id, user.queries[0].input)
    assert said(walked, "--user", user.user_id, article) == {**whole, "prompt": article}
    piped = said(walked, "--user", user.user_id, data=f"\ufeff{article}\n".encode())
    assert piped == said(walked, "--user", user.user_id, "-", data=article.encode()) == {**whole, "prompt": article}


def test_raw_text_is_the_whole_prompt(walked: Shell) -> None:
    user = target(walked)
    prompt = query_prompts(get_task("news_headline"), user)[0].text
    raw = said(walked, "--user", user.user_id, prompt, "--raw")
    assert raw["answers"] == said(walked, "--user", user.user_id, user.queries[0].input)["answers"]
    assert raw["reference"] is None
    assert said(walked, "--user", user.user_id, "Something else", "--raw")["answers"] != raw["answers"]


def test_in_words_there_is_a_line_for_each_model(walked: Shell) -> None:
    user = target(walked)
    answers = said(walked, "--user", user.user_id, user.queries[0].input)["answers"]
    rows = [
        line.split("\t")[0] for line in chat(walked, "--user", user.user_id, user.queries[0].input).stdout.splitlines()
    ]
    assert rows == [*answers, "reference"]
    assert [line.split("\t")[0] for line in chat(walked, "--user", user.user_id, "x").stdout.splitlines()] == [*answers]


def test_answers_grow_pass_by_pass(walked: Shell) -> None:
    user = target(walked)
    heard: list[dict[str, str]] = []
    workspace = open_workspace(walked.root, predict={"max_new_tokens": 8})
    opened = open_chat(workspace, Who((user.user_id,)))
    reply = opened.ask(user.queries[0].input, lambda answers: heard.append(dict(answers)))
    assert heard[-1] == reply.answers
    assert len({one["per-pcs"] for one in heard}) > 2
    assert opened.ask(user.queries[0].input) == reply


def test_what_is_refused(walked: Shell) -> None:
    user = target(walked).user_id
    assert "name one user" in refused(chat(walked, "x"), USAGE)
    assert "name one user" in refused(chat(walked, "--user", user, "--user", "other", "x"), USAGE)
    assert "other" in refused(chat(walked, "--user", "other", "x"), USAGE)
    assert "nothing to answer" in refused(chat(walked, "--user", user, data=b" \n"), USAGE)
    assert "is not UTF-8" in refused(chat(walked, "--user", user, data=b"\xff"), DATA)
    assert "shows nothing" in refused(chat(walked, "--user", user, "x", "--raw", "--retrieve", "1"), USAGE)
    twice = chat(walked, "--user", user, "x", "--own", "oppu", "--own", "./oppu")
    assert "two models are called 'oppu'" in refused(twice, USAGE)


def talk(root: Path, user: str, lines: list[str], **environment: str) -> str:
    """`perpcs chat --user USER` on a terminal, where lines are typed; all that it showed."""
    parent, child = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": "100",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment,
    }
    command = [sys.executable, "-c", RUN, "chat", *SHORT, "--user", user, "-w", str(root)]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    shown, waiting = "", [*(f"{line}\n" for line in lines), "\x04"]
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(parent, 1 << 16):
            shown += part.decode()
            while waiting and shown.count("> ") > len(lines) + 1 - len(waiting):
                os.write(parent, waiting.pop(0).encode())
    os.close(parent)
    assert process.wait() == 0, shown
    return shown


def test_lines_are_typed_on_a_terminal_and_answers_stand_side_by_side(walked: Shell) -> None:
    user = target(walked)
    answers = said(walked, "--user", user.user_id, user.queries[0].input)["answers"]
    shown = talk(walked.root, user.user_id, [user.queries[0].input, "", "x"], NO_COLOR="1")
    assert "\x1b[2K" in shown
    assert re.search(r"base +adapted +per-pcs", shown)
    still = talk(walked.root, user.user_id, [user.queries[0].input], TERM="dumb", COLUMNS="40")
    assert "\x1b[2K" not in still and "\x1b[1m" not in still
    words = " ".join(still.split())
    assert all(" ".join(answer.split()) in words for answer in answers.values() if answer.isascii())
