from __future__ import annotations

from pathlib import Path

import pytest

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.predictions import (
    Prediction,
    PredictionsInfo,
    info_path,
    read_info,
    read_predictions,
    write_info,
    write_predictions,
)
from perpcs_cli.errors import DataError

ROWS = [Prediction(user_id="u1", id="1", output="née"), Prediction(user_id="u2", id="1", output="")]
INFO = PredictionsInfo(
    task="citation",
    model_label="base",
    count=2,
    sha256=hashing.digest_bytes(b"".join(typed_files.jsonl_lines(ROWS))),
    provenance=Provenance(command="predict", settings={}, seed=0),
)


def test_lines_are_written_and_read(tmp_path):
    path = tmp_path / "base.jsonl"
    write_predictions(path, ROWS)
    assert path.read_text() == '{"user_id":"u1","id":"1","output":"née"}\n{"user_id":"u2","id":"1","output":""}\n'
    assert read_predictions(path) == ROWS


def test_numbers_are_taken_as_import_takes_them(tmp_path):
    (tmp_path / "p.jsonl").write_text('\ufeff{"user_id":7,"id":1.0,"output":4.5}\n')
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction(user_id="7", id="1", output="4.5")]


def test_a_query_answered_twice(tmp_path):
    path = tmp_path / "base.jsonl"
    write_predictions(path, [*ROWS, ROWS[0]])
    with pytest.raises(DataError, match="query '1' of user 'u1' is answered twice"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no predictions"),
        ('{"user_id":"u","id":"1"}\n', "line 1: .*missing required field `output`"),
        ('\n{"user_id":"u","id":"1","output":"x","score":1}\n', "line 2: .*unknown field `score`"),
        ('{"user_id":"u","id":[1],"output":"x"}\n', r"line 1: Expected `int \| float \| str`, got `array`"),
        ('{"user_id":"u","id":true,"output":"x"}\n', r"line 1: Expected `int \| float \| str`, got `bool`"),
        ('{"user_id":"u",', "line 1"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "base.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_the_sidecar_lies_beside(tmp_path):
    assert info_path(Path("predictions/top.3.jsonl")) == Path("predictions/top.3.meta.json")
    path = tmp_path / "base.jsonl"
    write_predictions(path, ROWS)
    assert read_info(path, len(ROWS)) is None
    write_info(path, INFO)
    assert '"format": "perpcs.predictions/2"' in (tmp_path / "base.meta.json").read_text()
    assert read_info(path, len(ROWS)) == INFO


def test_a_file_that_was_cut(tmp_path):
    write_info(tmp_path / "base.jsonl", INFO)
    with pytest.raises(DataError, match=r"holds 1 predictions and base\.meta\.json counts 2"):
        read_info(tmp_path / "base.jsonl", 1)


def test_a_file_that_was_changed(tmp_path):
    """As many lines as before, and other answers."""
    path = tmp_path / "base.jsonl"
    changed = [ROWS[0], Prediction(user_id="u2", id="1", output="x")]
    write_predictions(path, changed)
    write_info(path, INFO)
    with pytest.raises(DataError, match=r"does not hold the predictions that base\.meta\.json tells of"):
        read_info(path, len(changed))


def test_a_sidecar_of_another_version(tmp_path):
    (tmp_path / "base.meta.json").write_text('{"format": "perpcs.predictions/9"}')
    with pytest.raises(DataError, match=r"expected the format 'perpcs\.predictions/2'"):
        read_info(tmp_path / "base.jsonl", len(ROWS))
