"""`traces/U.jsonl`: what is appended is there, what was cut off is dropped, what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import provenance

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.trace import Evaluation, Trace, TraceHeader, open_trace, read_trace
from perpcs_cli.errors import DataError

HEADER = TraceHeader(user_id="u", sharers=("a", "b"), weights=2, items=1, provenance=provenance())


def row(first: float, call: int = 0, of: int = 2, tokens: tuple[int, ...] = (3,)) -> Evaluation:
    return Evaluation(
        weights=(first, 0.0),
        utility=1.0,
        similarity=(0.5, 0.25),
        metrics={"accuracy": 1.0},
        call=call,
        of=of,
        outputs=hashing.digest_value([tokens]),
        tokens=(tokens,),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trace of two calls of two candidates."""
    trace = open_trace(tmp_path / "t.jsonl", HEADER)
    trace.append([row(0.1), row(0.2)])
    trace.append([row(0.3, 1, tokens=(4,)), row(0.4, 1)])
    return tmp_path / "t.jsonl"


def weights(trace: Trace) -> list[float]:
    return [first for first, _ in trace.known]


def test_it_is_read_back(path: Path) -> None:
    trace = open_trace(path, HEADER)
    assert weights(trace) == [0.1, 0.2, 0.3, 0.4]
    assert trace.calls == 2
    assert trace.answers == {hashing.digest_value([[one]]): ((one,),) for one in (3, 4)}
    assert read_trace(path)[0] == HEADER


def test_a_candidate_that_was_stopped_has_the_first_answers(tmp_path: Path) -> None:
    header = msgspec.structs.replace(HEADER, items=3)
    answers = ((3,), (4,))
    stopped = msgspec.structs.replace(row(0.1, of=1), items=2, tokens=answers, outputs=hashing.digest_value(answers))
    path = tmp_path / "t.jsonl"
    open_trace(path, header).append([stopped])
    (read,) = read_trace(path)[1]
    assert read == stopped and read.stopped
    for wrong in ({"items": 1}, {"items": 3}, {"items": None}, {"items": 9}):
        typed_files.write_jsonl(path, [header, msgspec.structs.replace(stopped, **wrong)])
        with pytest.raises(DataError, match="does not fit the trace's first line"):
            read_trace(path)


def test_equal_answers_are_stored_once(path: Path) -> None:
    assert [one.tokens for one in read_trace(path)[1]] == [((3,),), None, ((4,),), None]


def test_a_call_that_was_not_written_to_its_end_is_dropped(path: Path) -> None:
    content = path.read_bytes()
    last = content.rstrip().rfind(b"\n") + 1
    for cut in (last - 5, last, last + 5, len(content) - 1):
        path.write_bytes(content[:cut])
        trace = open_trace(path, HEADER)
        assert weights(trace) == [0.1, 0.2]
        assert trace.calls == 1
        assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:3])
    trace.append([row(0.3, 1, tokens=(4,)), row(0.4, 1)])
    assert path.read_bytes() == content


def test_a_new_trace_has_its_header_at_once(tmp_path: Path) -> None:
    open_trace(tmp_path / "t.jsonl", HEADER)
    assert read_trace(tmp_path / "t.jsonl") == (HEADER, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 6: not a Evaluation: "),
        (msgspec.json.encode(HEADER), "line 6: not a Evaluation: "),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), weights=(0.5,))), "line 6: the candidate does not fit"),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), similarity=())), "does not fit"),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), tokens=())), "does not fit"),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), tokens=None, outputs="new")), "does not fit"),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), utility=float("nan"))), "not a Evaluation: "),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), tokens=((4,),))), "not those of their digest"),
        (msgspec.json.encode(msgspec.structs.replace(row(0.5), call=-1)), "not a Evaluation: "),
        (b"\xff", "line 6: not a Evaluation: "),
    ],
    ids=[
        *("broken", "a header", "weights", "similarities", "answers", "no answers", "not finite", "other answers"),
        *("negative", "no text"),
    ],
)
def test_broken_lines(path: Path, line: bytes, message: str) -> None:
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=message):
        open_trace(path, HEADER)


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"utility": 1e30}, "sum"),
        ({"utility": 1e30, "metrics": {"accuracy": 1e30}}, "sum"),
        ({"utility": 0.9}, "sum"),
        ({"utility": 1.0, "metrics": {"accuracy": 1.0, "f1": 0.5}}, "sum"),
        ({"utility": 1.0, "metrics": {"accuracy": 1.0, "f1": 0.5}}, "f1"),
        ({"utility": 2.0, "metrics": {"mae": 2.0}, "similarity": (-1.0, 0.0)}, "sum"),
        ({"utility": -2.0, "metrics": {"mae": 2.0}, "similarity": (0.5, 0.0)}, "sum"),
        ({"utility": 0.0, "metrics": {}}, "sum"),
        ({"similarity": (-1e30, 0.0)}, "sum"),
        ({"similarity": (1.5, 0.0)}, "sum"),
        ({}, "rouge-1"),
        ({}, ["sum"]),
    ],
)
def test_scores_that_do_not_follow_from_the_metrics(tmp_path: Path, changes: dict[str, Any], metric: object) -> None:
    origin = msgspec.structs.replace(HEADER.provenance, settings={"metric": metric})
    header = msgspec.structs.replace(HEADER, provenance=origin)
    typed_files.write_jsonl(tmp_path / "t.jsonl", [header, msgspec.structs.replace(row(0.1, of=1), **changes)])
    with pytest.raises(DataError, match="line 2: the scores do not follow from the metrics"):
        open_trace(tmp_path / "t.jsonl", header)


@pytest.mark.parametrize(
    "changes",
    [
        {"utility": 1.5, "metrics": {"accuracy": 1.0, "f1": 0.5}, "similarity": (2.0, 0.0)},
        {"utility": -3.5, "metrics": {"mae": 1.5, "rmse": 2.0}, "similarity": (-4.0, 0.0)},
    ],
)
def test_scores_that_do(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = msgspec.structs.replace(row(0.1, of=1), **changes)
    typed_files.write_jsonl(tmp_path / "t.jsonl", [HEADER, one])
    assert read_trace(tmp_path / "t.jsonl")[1] == [one]


@pytest.mark.parametrize("content", [b"", b"no newline"])
def test_no_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="holds nothing"):
        read_trace(tmp_path / "t.jsonl")


def test_a_header_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="line 1: not a TraceHeader"):
        read_trace(tmp_path / "t.jsonl")


def test_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"perpcs.trace/2", b"perpcs.trace/1"))
    with pytest.raises(DataError, match=r"line 1: not a TraceHeader: Invalid value 'perpcs\.trace/1'"):
        read_trace(path)


def test_a_trace_of_other_settings(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(DataError, match="was made with other settings: seed 0 -> 1"):
        open_trace(path, msgspec.structs.replace(HEADER, provenance=provenance(seed=1)))
    assert path.read_bytes() == before
