"""`perpcs import`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from perpcs_cli.artifacts.users import read_users
from perpcs_cli.cli.main import app

ASK = "Generate a headline for the following article: "


def item(number: int) -> dict[str, object]:
    return {"id": number, "text": "It rained.", "title": "Rain", "date": "2020"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    queries = [{"id": "q1", "input": f"{ASK}Sun.", "gold": "Sun"}, {"id": "q2", "input": f"{ASK}Hail."}]
    users = [{"user_id": "u1", "profile": [item(1), item(2)], "query": queries}]
    (tmp_path / "users.json").write_text(json.dumps(users), encoding="utf-8")
    return tmp_path / "users.json"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    users = [{"user_id": "u1", "profile": [item(1), *({"id": n} for n in range(15))], "query": []}]
    (tmp_path / "broken.json").write_text(json.dumps(users), encoding="utf-8")
    return tmp_path / "broken.json"


def test_it_writes_users_and_says_how_many(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run(source, "--task", "LaMP_4", "--out", out)

    assert result.exit_code == 0
    assert result.stdout == f"{out}\t1 users\t2 history items\t2 queries (1 with an answer)\n"
    assert result.stderr == ""
    assert len(read_users(out)["u1"].history) == 2


def test_json_counts(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run(source, "--task", "news_headline", "--out", out, "--json", "--quiet")

    assert json.loads(result.stdout) == {
        "path": str(out),
        "state": "made",
        "users": 1,
        "items": 2,
        "queries": 2,
        "answered": 1,
        "problems": [],
        "notes": [],
    }
    assert result.stderr == ""


def test_the_workspace_gives_the_task_and_the_place(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    CliRunner().invoke(app, ["init", str(workspace), "--task", "LaMP_4"])

    assert run(source, "-w", workspace).exit_code == 0
    assert list(read_users(workspace / "users.jsonl")) == ["u1"]


def test_broken_records_are_listed_and_nothing_is_written(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run(broken, "--task", "LaMP_4", "--out", out)
    lines = result.stderr.splitlines()

    assert result.exit_code == 3
    assert not out.exists()
    assert lines[0] == f"warning: {broken}: user 'u1', profile[1]: text: is missing"
    assert lines[20:] == [
        "warning: and 10 more problems; --json lists them all",
        "error: 30 problems; nothing was written",
        "  Mend the records, or write the good ones with --allow-broken.",
    ]


def test_json_lists_every_problem(broken: Path, tmp_path: Path) -> None:
    result = run(broken, "--task", "LaMP_4", "--out", tmp_path / "out.jsonl", "--json")
    content = json.loads(result.stdout)

    assert (result.exit_code, content["path"], len(content["problems"])) == (3, None, 30)
    assert content["state"] == "refused"
    assert content["problems"][1] == {
        "file": str(broken),
        "record": "user 'u1', profile[1]",
        "field": "title",
        "message": "is missing",
    }


def test_the_good_records_are_written_on_request(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run(broken, "--task", "LaMP_4", "--out", out, "--allow-broken")

    assert result.exit_code == 0
    assert read_users(out)["u1"].history == [{"id": "1", "text": "It rained.", "title": "Rain", "date": "2020"}]
    assert "warning: records with 30 problems were left out\n" in result.stderr


def test_an_existing_file_is_replaced_only_by_force(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine", encoding="utf-8")

    refused = run(source, "--task", "LaMP_4", "--out", out)
    assert (refused.exit_code, out.read_text(encoding="utf-8")) == (2, "mine")
    assert run(source, "--task", "LaMP_4", "--out", out, "--force").exit_code == 0
    assert list(read_users(out)) == ["u1"]


def test_without_a_task_it_says_what_to_give(source: Path, tmp_path: Path) -> None:
    result = run(source, "-w", tmp_path)

    assert result.exit_code == 2
    assert "no task is known\n  Give --task" in result.stderr


def test_no_users_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text("[]", encoding="utf-8")
    result = run(tmp_path, "--task", "LaMP_4", "--out", tmp_path / "out.jsonl")

    assert (result.exit_code, result.stderr) == (3, f"error: {tmp_path}: the sources hold no users\n")
