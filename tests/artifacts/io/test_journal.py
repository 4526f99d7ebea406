"""Journals: rows survive a crash, and a run goes on with its own and no other."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from helpers import provenance

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.journal import (
    Appender,
    Header,
    end_journal,
    open_journal,
    open_long_journal,
    partial_path,
    read_journal,
)
from perpcs_cli.errors import DataError

HEADER = Header(of="perpcs.rows/1", provenance=provenance())


class Row(msgspec.Struct):
    id: int


def begun(directory: Path) -> Path:
    """A journal of two rows."""
    path = directory / "sub" / "journal.jsonl"
    journal = open_journal(path, HEADER, Row)
    journal.add([Row(1), Row(2)])
    assert journal.rows == [Row(1), Row(2)]
    return path


@pytest.mark.parametrize("left", [b"", b'{"id":', b'{"id":9}', b"\xff\x00"])
def test_what_is_appended_comes_after_whole_lines(tmp_path, left):
    path = tmp_path / "sub" / "journal.jsonl"
    Appender(path).append([Row(1), Row(2)])
    with path.open("ab") as file:
        file.write(left)
    Appender(path).append([Row(3)])
    assert typed_files.read_jsonl(path, Row) == [Row(1), Row(2), Row(3)]


def test_a_file_of_one_cut_line_is_empty(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"id":')
    Appender(path)
    assert path.read_bytes() == b""


def test_a_new_journal_has_its_header_at_once(tmp_path):
    path = tmp_path / "sub" / "journal.jsonl"
    assert open_journal(path, HEADER, Row).rows == []
    assert read_journal(path, Header, Row) == (HEADER, [])
    assert len(path.read_bytes().splitlines()) == 1
    assert b'"format":"perpcs.journal/1"' in path.read_bytes()


def test_a_run_goes_on_with_what_it_has(tmp_path):
    path = begun(tmp_path)
    journal = open_journal(path, HEADER, Row)
    assert journal.rows == [Row(1), Row(2)]
    journal.add([Row(3)])
    assert journal.rows == [Row(1), Row(2), Row(3)]
    assert read_journal(path, Header, Row) == (HEADER, [Row(1), Row(2), Row(3)])


def test_another_runs_journal_is_refused_and_stays(tmp_path):
    path = begun(tmp_path)
    before = path.read_bytes()
    other = msgspec.structs.replace(HEADER, provenance=provenance(seed=1))
    with pytest.raises(DataError, match="was made with other settings: seed 0 -> 1") as caught:
        open_journal(path, other, Row)
    assert caught.value.where == str(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [b'{"id":', b'{"id":9}', b"\xff\x00"])
def test_a_last_line_that_was_cut_off_is_dropped(tmp_path, left):
    path = begun(tmp_path)
    with path.open("ab") as file:
        file.write(left)
    assert read_journal(path, Header, Row) == (HEADER, [Row(1), Row(2)])
    journal = open_journal(path, HEADER, Row)
    assert journal.rows == [Row(1), Row(2)]
    journal.add([Row(3)])
    assert read_journal(path, Header, Row) == (HEADER, [Row(1), Row(2), Row(3)])


def test_an_empty_file_is_begun(tmp_path):
    """As a crash between making and filling it would leave it."""
    path = tmp_path / "journal.jsonl"
    path.touch()
    assert open_journal(path, HEADER, Row).rows == []
    assert read_journal(path, Header, Row) == (HEADER, [])


def test_a_journal_without_rows_is_nobodys(tmp_path):
    """Its run was stopped before it had made anything."""
    path = tmp_path / "journal.jsonl"
    open_journal(path, HEADER, Row)
    other = msgspec.structs.replace(HEADER, provenance=provenance(seed=1))
    assert open_journal(path, other, Row).rows == []
    assert read_journal(path, Header, Row) == (other, [])


@pytest.mark.parametrize("seed", [0, 1])
def test_with_force_it_is_begun_again(tmp_path, seed):
    path = begun(tmp_path)
    header = msgspec.structs.replace(HEADER, provenance=provenance(seed=seed))
    assert open_journal(path, header, Row, force=True).rows == []
    assert read_journal(path, Header, Row) == (header, [])


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, b"{", "not a Header: "),
        (1, b'{"id":1}', "not a Header: Object contains unknown field `id`"),
        (1, b'{"format":"perpcs.journal/9"}', "not a Header: Invalid value 'perpcs.journal/9'"),
        (2, b'{"id":"x"}', r"not a Row: Expected `int`, got `str` - at `\$.id`"),
        (2, b"", "not a Row: "),
        (3, b'{"id":\xff}', "not a Row: "),
    ],
)
def test_a_broken_line_names_file_and_line(tmp_path, number, line, message):
    path = begun(tmp_path)
    lines = path.read_bytes().splitlines()
    lines[number - 1] = line
    path.write_bytes(b"\n".join([*lines, b""]))
    with pytest.raises(DataError, match=message) as caught:
        open_journal(path, HEADER, Row)
    assert caught.value.where == f"{path}, line {number}"
    assert open_journal(path, HEADER, Row, force=True).rows == []


def test_a_file_without_a_whole_line_holds_nothing(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"format":"perpcs.jour')
    with pytest.raises(DataError, match="holds nothing"):
        read_journal(path, Header, Row)


def test_when_it_has_ended_it_is_gone(tmp_path):
    path = partial_path(tmp_path / "top.json")
    open_journal(path, HEADER, Row)
    assert path.exists()
    for _ in range(2):
        end_journal(tmp_path / "top.json")
        assert not path.exists()


def test_the_place_of_what_is_not_ended():
    assert partial_path(Path("a/top.3.jsonl")) == Path("a/top.3.partial.jsonl")
    assert partial_path(Path("a/x.json")) == Path("a/x.partial.jsonl")


def test_the_rows_of_a_long_journal_are_read_from_the_file(tmp_path):
    path = begun(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"id":')
    journal = open_long_journal(path, HEADER, Row, lambda row: row.id)
    journal.add([])
    journal.add([Row(30), Row(4)])
    assert list(journal.rows([4, 1, 30, 2])) == [Row(4), Row(1), Row(30), Row(2)]
    assert journal.places == open_long_journal(path, HEADER, Row, lambda row: row.id).places
    assert read_journal(path, Header, Row) == (HEADER, [Row(1), Row(2), Row(30), Row(4)])
    assert open_long_journal(path, HEADER, Row, lambda row: row.id, force=True).places == {}


def test_of_two_rows_of_a_key_the_later_one_counts(tmp_path):
    path = begun(tmp_path)
    journal = open_long_journal(path, HEADER, Row, lambda row: row.id % 2)
    journal.add([Row(5)])
    assert list(journal.rows([0, 1])) == [Row(2), Row(5)]
