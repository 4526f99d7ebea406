"""`perpcs fetch lamp`, from a server of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving
from shell import Shell

from perpcs_cli.artifacts.io import download as downloading


def questions(ids: list[int], users: list[int] | None = None) -> bytes:
    """LaMP-4's questions as they are: numbers as ids, a byte order mark, line ends of Windows, some without a date."""
    rows = []
    for place, number in enumerate(ids):
        user = users[place] if users else number
        items: list[dict[str, object]] = [
            {"id": f"{user}{n}", "title": f"Title {n}", "text": f"words of {user}, {n}"} for n in range(3)
        ]
        items[0]["date"] = "2013-04-01"
        row: dict[str, object] = {
            "id": number,
            "input": f"Generate a headline for the following article: article {number}",
            "profile": items,
        }
        rows.append({**row, "user_id": user} if users else row)
    return ("\ufeff" + json.dumps(rows, indent=1).replace("\n", "\r\n")).encode()


def outputs(ids: list[int]) -> bytes:
    return json.dumps({"task": "LaMP_4", "golds": [{"id": n, "output": f"Headline {n}"} for n in ids]}).encode()


FILES = {
    "/LaMP_4/train/train_questions.json": questions([110, 111]),
    "/LaMP_4/train/train_outputs.json": outputs([110, 111]),
    "/LaMP_4/dev/dev_questions.json": questions([210, 211, 212]),
    "/LaMP_4/dev/dev_outputs.json": outputs([210, 211, 212]),
    "/LaMP_4/test/test_questions.json": questions([310]),
    "/time/LaMP_4/dev/dev_questions.json": questions([220, 221, 222], users=[7, 7, 8]),
    "/time/LaMP_4/dev/dev_outputs.json": outputs([220, 221, 222]),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setattr(downloading, "WAIT_SECONDS", 0.0)
    monkeypatch.setenv("PERPCS_CACHE", str(tmp_path / "cache"))
    with serving(dict(FILES)) as one:
        yield one


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    (tmp_path / "work").mkdir()
    return Shell(tmp_path / "work", tmp_path)


def fetch(here: Shell, server: FileServer, more: str = "", task: str = "4") -> dict[str, object]:
    line = f"fetch lamp --task {task} --base-url {server.url} --json {more}"
    done = here(line, PERPCS_CACHE=str(here.root.parent / "cache"))
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_parts_are_fetched_and_imported(here: Shell, server: FileServer) -> None:
    found = fetch(here, server)
    assert {name: found[name] for name in ("users", "items", "queries", "answered", "problems")} == {
        "users": 5,
        "items": 15,
        "queries": 5,
        "answered": 5,
        "problems": [],
    }
    users = [json.loads(line) for line in (here.root / "users.jsonl").read_text().splitlines()]
    assert [user["user_id"] for user in users] == ["110", "111", "210", "211", "212"]
    assert [item["id"] for item in users[0]["history"]] == ["1100", "1101", "1102"]
    files = found["files"]
    assert isinstance(files, list) and {one["state"] for one in files} == {"made"}
    assert all(len(one["sha256"]) == 64 and one["bytes"] == len(FILES[one["url"][len(server.url) :]]) for one in files)


def test_what_is_there_is_not_fetched_again(here: Shell, server: FileServer) -> None:
    fetch(here, server)
    server.asked.clear()
    found = fetch(here, server)
    assert server.asked == []
    assert found["state"] == "finished"
    # Another workspace takes them from the cache.
    assert fetch(here, server, "--out other.jsonl")["state"] == "made"
    assert server.asked == []


def test_a_changed_file_is_fetched_again(here: Shell, server: FileServer, tmp_path: Path) -> None:
    fetch(here, server)
    server.asked.clear()
    path = tmp_path / "cache" / "lamp" / "user" / "LaMP_4" / "dev" / "dev_questions.json"
    path.write_bytes(path.read_bytes().replace(b"article", b"ARTICLE"))
    assert fetch(here, server)["state"] == "finished"
    assert server.asked == [("/LaMP_4/dev/dev_questions.json", None)]


def test_users_of_the_time_split_ask_several_questions(here: Shell, server: FileServer) -> None:
    found = fetch(here, server, "--split time --part dev")
    assert (found["users"], found["items"], found["queries"]) == (2, 6, 3)


def test_the_test_part_has_no_answers(here: Shell, server: FileServer) -> None:
    found = fetch(here, server, "--part test")
    assert (found["queries"], found["answered"]) == (1, 0)


def test_a_dry_run_fetches_nothing(here: Shell, server: FileServer) -> None:
    found = fetch(here, server, "--dry-run")
    assert found["state"] == "to do" and server.asked == []
    assert not (here.root / "users.jsonl").exists()


def test_a_stopped_fetch_goes_on(here: Shell, server: FileServer) -> None:
    server.cuts = [100] * downloading.TRIES
    line = f"fetch lamp --task 4 --base-url {server.url}"
    cache = str(here.root.parent / "cache")
    stopped = here(line, PERPCS_CACHE=cache)
    assert stopped.exit_code == 1
    assert "The same command goes on after 500 bytes." in stopped.stderr
    server.asked.clear()
    assert here(line, PERPCS_CACHE=cache).exit_code == 0
    assert server.asked[0] == ("/LaMP_4/train/train_questions.json", "bytes=500-")


@pytest.mark.parametrize(
    ("line", "message", "code"),
    [
        ("fetch lamp --task 6", "no such task", 2),
        ("fetch lamp", "no task is known", 2),
        ("fetch lamp --task 4 --base-url file:///etc", "no address of a web server", 2),
        ("fetch lamp --task 5 --base-url URL", "the server says 404", 1),
    ],
)
def test_what_cannot_be_fetched(here: Shell, server: FileServer, line: str, message: str, code: int) -> None:
    done = here(line.replace("URL", server.url), PERPCS_CACHE=str(here.root.parent / "cache"))
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_movie_tags_have_taken_the_place_of_news_categories() -> None:
    from perpcs_cli.tasks.importing.lamp_files import Part, paths_of
    from perpcs_cli.tasks.spec import get_task

    assert paths_of(get_task("2"), "user", Part.dev)[0] == "LaMP_2/new/dev/dev_questions.json"
    assert paths_of(get_task("2M"), "time", Part.test) == ["time/LaMP_2/new/test/test_questions.json"]
    assert paths_of(get_task("2n"), "user", Part.dev)[1] == "LaMP_2/dev/dev_outputs.json"
