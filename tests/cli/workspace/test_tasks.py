"""`perpcs task`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import DATA, USAGE, Shell, refused
from valid_files import OWN_TASK

from perpcs_cli.tasks.spec import ORDER, SHIPPED


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    (tmp_path / "mood.toml").write_text(OWN_TASK)
    return Shell(tmp_path, tmp_path / "model")


def test_list(empty: Shell) -> None:
    rows = json.loads(empty("task list --json").stdout)
    assert [row["name"] for row in rows] == list(ORDER)
    assert rows[1] == {
        "name": "movie_tagging",
        "lamp": "LaMP_2M",
        "fields": ["description", "tag"],
        "answers": "15 labels",
        "metrics": ["accuracy", "f1"],
    }
    assert "tweet_paraphrase   LaMP_7        text               text        rouge-1, rouge-L" in (
        empty("task list").stdout
    )


def test_show_prints_the_file_and_it_makes_an_own_task(empty: Shell) -> None:
    text = empty("task show LaMP_3").stdout
    assert text == (SHIPPED / "product_rating.toml").read_text()
    (empty.root / "mine.toml").write_text(text)
    assert "name: 'product_rating' is the name of another task" in refused(empty("task check mine.toml"), DATA)
    (empty.root / "mine.toml").write_text(text.replace('"product_rating"', '"mine"'))
    assert empty("task check mine.toml").stdout.startswith("mine: 5 labels, at most 4 tokens; mae and rmse\n")
    assert json.loads(empty("task show mine.toml --json").stdout)["lamp"] == "LaMP_3"


@pytest.mark.parametrize("name", ORDER)
def test_the_shipped_tasks_are_right(name: str, empty: Shell) -> None:
    assert empty(f"task check {name}").exit_code == 0


def test_check_shows_the_prompts(empty: Shell) -> None:
    assert empty("task check mood.toml").stdout == (
        """mood: 2 labels, at most 4 tokens; accuracy and f1

# a history item, to train on
Then: (note of item 1) Mood: sad

# a query
Note: (note of the query) Weather: (weather of the query) Mood: glad

# a query, with a retrieved item (--retrieve 1)
### User History:
(note of item 2), glad


Note: (note of the query) Weather: (weather of the query) Mood: glad

# a query, with the profile (--with-profile)
### User Profile:
(the profile)

Note: (note of the query) Weather: (weather of the query) Mood: glad

# the profile, as `perpcs profile` asks for it
Who is it? User History: (note of item 1) (sad) | (note of item 2) (glad) Answer:
"""
    )
    samples = json.loads(empty("task check mood.toml --json").stdout)
    assert samples[1] == {
        "what": "a query",
        "prompt": "Note: (note of the query) Weather: (weather of the query) Mood:",
        "answer": " glad",
    }


def test_check_says_everything_at_once(empty: Shell) -> None:
    text = OWN_TASK.replace('"glad", "sad"]', '"glad"]').replace("Note: {note}", "Note: {not}")
    (empty.root / "mood.toml").write_text(text)
    assert refused(empty("task check mood.toml"), DATA) == (
        """mood.toml: 4 things are wrong
  labels: accuracy and f1 need two labels or more, every possible answer
  columns.answers: '0' stands for 'sad', which is none of the labels
  query_template: {not} is not there; its fields can be note, weather
  query_template: names the input_field {note} 0 times, and once is right
  docs/tasks.md describes the form; `perpcs task show movie_tagging` prints one.
"""
    )


def test_settings_of_the_wrong_type(empty: Shell) -> None:
    (empty.root / "mood.toml").write_text(OWN_TASK.replace("lr = 1e-3", 'lr = "high"'))
    assert refused(empty("task check mood.toml"), USAGE).startswith("mood.toml: settings: Expected `float`")


def test_no_such_task(empty: Shell) -> None:
    assert refused(empty("task check mood"), USAGE).startswith("no such task: 'mood'")
    assert refused(empty("task check no.toml"), DATA).startswith("no.toml: no such file")
