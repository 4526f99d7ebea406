"""The file of a task: what is taken, and that everything wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from valid_files import OWN_TASK

from perpcs_cli.artifacts.task import TaskFile, pieces, read_task_file
from perpcs_cli.errors import DataError

LAMP = {"LaMP_4": {"text"}}


def read(path: Path, text: str) -> TaskFile:
    (path / "mood.toml").write_text(text)
    return read_task_file(path / "mood.toml", LAMP, ["movie_tagging"])


def changed(**lines: str) -> str:
    """The valid file with other values of keys of the top; an empty one leaves the key out."""
    head, columns, rest = OWN_TASK.partition("[columns]")
    kept = [line for line in head.splitlines() if line.split(" = ")[0] not in lines]
    return "\n".join([*kept, *(f"{key} = {value}" for key, value in lines.items() if value), columns + rest])


def problems(path: Path, text: str) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, text)
    assert caught.value.where == str(path / "mood.toml")
    first, *more = caught.value.what.splitlines()
    assert not more or first == f"{len(more)} things are wrong"
    return [line.strip() for line in more] or [first]


def test_a_whole_file(tmp_path: Path) -> None:
    task = read(tmp_path, OWN_TASK)
    assert (task.required, task.labels, task.metrics) == (
        ("note", "weather", "mood"),
        ("glad", "sad"),
        ("accuracy", "f1"),
    )
    assert (task.columns.user_id, task.columns.answers) == ("who", {"1": "glad", "0": "sad"})


def test_the_shortest_file(tmp_path: Path) -> None:
    text = """format = "perpcs.task/1"
name = "t"
required = ["a", "b"]
input_field = "a"
output_field = "b"
metrics = ["rouge-1", "rouge-L"]
query_template = "{a}"
"""
    assert read(tmp_path, text).max_new_tokens == 32


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    text = changed(name='"Mood"', labels='["glad"]', max_new_tokens="0", query_templat='"x"', input_field='"text"')
    assert problems(tmp_path, text) == [
        "'query_templat': there is no such key; did you mean query_template?",
        "name: Expected `str` matching regex '^[a-z][a-z0-9_]{0,63}$'",
        "max_new_tokens: Expected `int` >= 1",
        "input_field: 'text' is none of the required fields note, weather, mood",
        "query_fields: lacks the input_field 'text'",
        "labels: accuracy and f1 need two labels or more, every possible answer",
        "columns.answers: '0' stands for 'sad', which is none of the labels",
        "query_template: names the input_field {text} 0 times, and once is right",
    ]


def test_an_item_that_lacks_what_a_query_has_needs_a_prompt_of_its_own(tmp_path: Path) -> None:
    text = changed(query_fields='["note", "hour"]', query_template='"{note} {hour}"', history_template="")
    assert problems(tmp_path, text) == ["history_template: {hour} is not there; its fields can be note, weather"]


def test_what_is_missing_hides_nothing(tmp_path: Path) -> None:
    text = changed(input_field="", output_field="", query_template='"{not}: "', line_template='"{note.x}"')
    assert problems(tmp_path, text) == [
        "input_field: is missing",
        "output_field: is missing",
        "query_template: {not} is not there; its fields can be note, weather",
        "query_template: ends with white space; the answer follows after a space",
        "line_template: 'note.x' between braces is no field; a brace itself is written twice",
        "line_template: must end with a line break",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "", "name: is missing"),
        ("name", '"movie_tagging"', "name: 'movie_tagging' is the name of another task; take one of your own"),
        ("required", '["note", "note", "mood", "weather"]', "required, optional: 'note' is named twice"),
        ("optional", '["date"]', "required, optional, query_fields: 'date' is there without being named"),
        ("output_field", '"joy"', "output_field: 'joy' is none of the fields note, weather, mood, place"),
        ("query_fields", '["note", "weather", "mood"]', "query_fields: holds the answer, 'mood'"),
        ("metrics", '["accuracy", "mae"]', "metrics: are accuracy and f1, or mae and rmse, or rouge-1 and rouge-L, "),
        ("metrics", '["mae", "rmse"]', "labels: 'glad' is no number, and ratings are"),
        ("metrics", '["rouge-1", "rouge-L"]', "labels: are not for rouge-1 and rouge-L, which score text"),
        ("labels", '["glad", "sad", "glad"]', "labels: one is named twice"),
        ("labels", '["glad", "sad", " so"]', "labels: ' so' begins or ends with white space"),
        ("query_template", '"{note} {place}"', "query_template: {place} is not there; its fields can be note, weather"),
        (
            "query_template",
            '"{note} {note}"',
            "query_template: names the input_field {note} 2 times, and once is right",
        ),
        ("query_template", '"{note}: "', "query_template: ends with white space; the answer follows after a space"),
        ("query_template", '"{note"', "query_template: expected '}' before end of string"),
        (
            "history_template",
            '"{note} {mood}"',
            "history_template: {mood} is the answer; its fields can be ",
        ),
        ("history_template", '"{note.upper}"', "history_template: 'note.upper' between braces is no field; "),
        ("line_template", '"{note}"', "line_template: must end with a line break"),
        ("line_template", '"{note:>999999999}\\n"', "line_template: 'note' between braces is no field; "),
        ("search_template", '"{note!r}"', "search_template: 'note' between braces is no field; "),
        ("profile_line", '"{}"', "profile_line: '' between braces is no field; "),
        ("lamp", '"LaMP_6"', "lamp: 'LaMP_6' is none of LaMP_4"),
        ("lamp", '"LaMP_4"', "query_fields: the prompts of LaMP_4 have no 'note', but text"),
    ],
)
def test_what_is_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    assert problems(tmp_path, changed(**{key: value}))[0].startswith(message)


def test_a_broken_prompt_that_stands_for_two_is_told_once(tmp_path: Path) -> None:
    text = changed(query_template='"{note"', history_template="")
    assert problems(tmp_path, text) == ["query_template: expected '}' before end of string"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 1e-3", "lr = -1", "settings.train.lr must be above 0 and below 1000, and is -1.0"),
        ("lr = 1e-3", "rate = 1", "settings.train.rate: there is no such setting of a section"),
        ("fields = {", 'fields = { joy = "j",', "columns.fields: 'joy' is no field of the task"),
        ("[columns]", "[columns]\nwho = 1", "columns: Object contains unknown field `who`"),
    ],
)
def test_tables_are_checked(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert problems(tmp_path, OWN_TASK.replace(old, new)) == [message]


def test_a_template_in_pieces() -> None:
    assert pieces("a {b} {{c}}") == [("a ", "b"), (" {", None), ("c}", None)]
