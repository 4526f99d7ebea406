from __future__ import annotations

import json

import pytest

from perpcs_cli.artifacts.io.typed_files import write_json
from perpcs_cli.artifacts.labels import Gold, Labels, is_labels, read_labels
from perpcs_cli.errors import DataError

LABELS = Labels(task="LaMP_1", golds=[Gold(id="10", output="[1]"), Gold(id="11", output="[2]")])


def test_the_layout_is_lamps(tmp_path):
    path = tmp_path / "golds.json"
    write_json(path, LABELS)
    expected = {"task": "LaMP_1", "golds": [{"id": "10", "output": "[1]"}, {"id": "11", "output": "[2]"}]}
    assert json.loads(path.read_text()) == expected
    assert read_labels(path) == LABELS


def test_numbers_and_a_byte_order_mark_are_taken_as_import_takes_them(tmp_path):
    path = tmp_path / "golds.json"
    path.write_text('\ufeff{"task": "LaMP_3", "golds": [{"id": 10, "output": 4}, {"id": 11.0, "output": "5"}]}')
    assert is_labels(path)
    assert read_labels(path).golds == [Gold(id="10", output="4"), Gold(id="11", output="5")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"task": "LaMP_1", "golds": []}', True),
        ('{"user_id": "u", "id": "1", "output": "x"}\n', False),
        ('{"user_id": "u", "id": "1", "output": "x"}\n{"user_id": "u", "id": "2", "output": "x"}\n', False),
        ("[]", False),
        ("", False),
    ],
)
def test_the_format_is_told_by_its_content(tmp_path, text, expected):
    path = tmp_path / "file"
    path.write_text(text)
    assert is_labels(path) is expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "LaMP_1", "golds": []}, "holds no labels"),
        (
            {"task": "LaMP_1", "golds": [{"id": "1", "output": "a"}, {"id": "1", "output": "b"}]},
            "'1' occurs twice",
        ),
        ({"task": "LaMP_1", "golds": [{"id": "1"}]}, "missing required field `output`"),
        ({"task": "LaMP_1", "golds": [{"id": [], "output": "a"}]}, "Labels does not have the expected fields"),
        ({"golds": []}, "missing required field `task`"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "golds.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_labels(path)
