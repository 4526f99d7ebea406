"""The data of own tasks: users with lists, or a row an item, in the columns that the task names."""

from __future__ import annotations

import importlib.util
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from valid_files import OWN_ROWS, OWN_TASK

from perpcs_cli.artifacts.users import Query, User, read_users, write_users
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.importing.import_users import ImportResult, load
from perpcs_cli.tasks.spec import Task, read_task

PYARROW = importlib.util.find_spec("pyarrow")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "mood.toml").write_text(OWN_TASK)
    return read_task(tmp_path / "mood.toml")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


MOODS = User(
    user_id="u",
    history=[
        {"id": "0", "note": "Out all day.", "weather": "sun", "mood": "glad"},
        {"id": "1", "note": "In all day.", "weather": "rain", "mood": "sad"},
    ],
    queries=[Query(id="q0", fields={"note": "To the sea.", "weather": "sun"}, output="glad")],
)


def written(path: Path, content: str | list[Any]) -> Path:
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
    return path


def told(found: ImportResult) -> list[str]:
    return [str(problem).partition("data/")[2] for problem in found.problems]


def test_a_row_is_an_item(task: Task, data: Path) -> None:
    found = load([written(data / "rows.csv", OWN_ROWS)], task)
    assert (found.users, found.problems) == ([MOODS], [])


def test_tabs_and_json_lines_say_the_same(task: Task, data: Path) -> None:
    names, *rows = [line.split(",") for line in OWN_ROWS.splitlines()]
    tabs = written(data / "rows.tsv", OWN_ROWS.replace(",", "\t"))
    lines = written(data / "rows.jsonl", [dict(zip(names, row, strict=True)) for row in rows])
    assert load([tabs], task).users == load([lines], task).users == [MOODS]


def test_a_users_rows_may_stand_in_several_files(task: Task, data: Path) -> None:
    head, *rows = OWN_ROWS.splitlines()
    for number, row in enumerate(rows):
        written(data / f"{number}.csv", f"{head}\n{row}\n")
    assert load([data], task).users == [MOODS]


def test_a_record_is_a_user(task: Task, data: Path) -> None:
    asked = {"id": 7, "text": "To the sea.", "weather": "sun", "mood": 1}
    later = {"text": "B", "weather": "", "mood": "sad", "date": "2021"}
    users = [
        {"who": "u", "history": [later, {**asked, "date": "2020"}], "queries": [asked], "profile": "dry"},
        {"who": "v", "queries": [asked, {"text": "A", "weather": "sun"}]},
    ]
    for name, content in (("a.jsonl", users), ("a.json", json.dumps(users))):
        first, second = load([written(data / name, content)], task).users
        assert [item["id"] for item in first.history] == ["7", "0"], "in time order"
        assert (first.profile, first.queries[0].id, first.queries[0].output) == ("dry", "7", "glad")
        assert [(query.id, query.output) for query in second.queries] == [("7", "glad"), ("q1", None)]


def test_what_import_writes_is_read_again(task: Task, data: Path) -> None:
    text = OWN_TASK.replace('user_id = "who"\n', "")
    (data.parent / "mood.toml").write_text(text)
    plain = read_task(data.parent / "mood.toml")
    write_users(data / "users.jsonl", [MOODS])
    assert load([data], plain).users == [MOODS] == list(read_users(data / "users.jsonl").values())


def test_broken_rows_are_named_by_their_lines(task: Task, data: Path) -> None:
    rows = "u,,A,sun,2\nu,later,B,sun,so\nu,,C\n,,D,sun,1\nu,later,E,sun,\n"
    found = load([written(data / "rows.csv", OWN_ROWS + rows)], task)
    assert told(found) == [
        "rows.csv: line 7: has 3 values, and the first line names 5 columns",
        "rows.csv: user 'u', line 5: mood: '2' is none of the labels glad, sad",
        "rows.csv: user 'u', line 6: output: 'so' is none of the labels glad, sad",
        "rows.csv: line 8: user_id: user id '' cannot name a file",
    ]
    assert [query.output for query in found.users[0].queries] == ["glad", None]


def test_broken_records_are_named_by_their_place(task: Task, data: Path) -> None:
    users = [
        {"who": "u", "history": [{"text": "A", "mood": "glad"}, 5], "queries": [{"text": "A"}]},
        {"who": "v", "history": 3},
    ]
    found = load([written(data / "users.jsonl", users)], task)
    assert told(found) == [
        "users.jsonl: user 'u', history[0]: weather: is missing",
        "users.jsonl: user 'u', history[1]: is not an object",
        "users.jsonl: user 'u', queries[0]: weather: is missing or not text",
        "users.jsonl: line 2: history: is not a list",
    ]


def test_a_query_id_occurs_once_a_user(task: Task, data: Path) -> None:
    asked = {"id": 7, "text": "A", "weather": "sun"}
    found = load([written(data / "users.jsonl", [{"who": "u", "queries": [asked, asked]}])], task)
    assert told(found) == ["users.jsonl: user 'u', queries[1]: id: the query id '7' occurs twice"]


def test_columns_that_nobody_asked_for_are_told(task: Task, data: Path) -> None:
    rows = [{"who": "u", "text": "A", "weather": "sun", "mood": "glad", "colour": "red"}]
    assert load([written(data / "rows.jsonl", rows)], task).notes[0] == "fields left out, not used by mood (1): colour"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "who,who\n", "has two columns 'who'"),
        ("a.csv", 'who\n"u', "not valid CSV"),
        ("a.csv", f"who\n{'x' * 200_000}\n", "not valid CSV: field larger than field limit"),
        ("a.jsonl", "[1", "not valid JSON"),
        ("a.json", "5", "holds no JSON object"),
    ],
)
def test_files_that_hold_no_rows(name: str, content: str, message: str, task: Task, data: Path) -> None:
    with pytest.raises(DataError, match=message):
        load([written(data / name, content)], task)


def test_a_directory_without_data(task: Task, data: Path) -> None:
    with pytest.raises(DataError, match="holds no file that ends in"):
        load([data], task)


@pytest.mark.skipif(PYARROW is not None, reason="pyarrow is there")
def test_parquet_needs_pyarrow(task: Task, data: Path) -> None:
    with pytest.raises(UsageError, match=r"pip install 'perpcs\[parquet\]'"):
        load([written(data / "a.parquet", "PAR1")], task)


@pytest.mark.skipif(PYARROW is None, reason="needs pyarrow")
def test_parquet(task: Task, data: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    names, *rows = [line.split(",") for line in OWN_ROWS.splitlines()]
    table = pyarrow.Table.from_pylist(
        [
            {**dict(zip(names, row, strict=True)), "mood": int(row[-1]), "date": datetime(2020, 1, 1 + number)}
            for number, row in enumerate(rows)
        ]
    )
    parquet.write_table(table, data / "rows.parquet")
    (user,) = load([data], task).users
    assert [item.pop("date") for item in user.history] == ["2020-01-01T00:00:00", "2020-01-02T00:00:00"]
    assert user == MOODS
    (data / "rows.parquet").write_bytes((data / "rows.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="not a valid Parquet file"):
        load([data], task)
