"""JSON lists record by record."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.tasks.importing import json_arrays
from perpcs_cli.tasks.importing.import_users import load
from perpcs_cli.tasks.importing.json_arrays import is_list, records
from perpcs_cli.tasks.spec import get_task

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    values=st.lists(VALUES, max_size=6),
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    mark=st.booleans(),
)
def test_the_records_are_the_lists(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], block: int, indent: int | None, mark: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8-sig" if mark else "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # The mark and the bracket are in the first block.
        patch.setattr(json_arrays, "BLOCK", max(block, 4))
        assert [json.loads(one) for one in records(path)] == values
        assert is_list(path)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ('[{"a": 1}, {"a": nonsense}, {"a": 3}]', [1]),
        ('[{"a": 1} {"a": 2}, {"a": 3}]', [0]),
        ('[{"a": 1}, , {"a": 3}]', [1]),
        ('[{"a": 1}, {"a": 3}, ]', [2]),
        ('[{"a": 1}, {"a": "x', [1]),
        ('[{"a": 1}, {"a": 2}', [1]),
        ('[{"a": 1}, {"a": 2}] and more', [2]),
        ('[{"a": 1}, {"a": 2}]]', [2]),
        ("[", [0]),
    ],
)
def test_only_what_is_broken_is_broken(tmp_path: Path, text: str, broken: list[int]) -> None:
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    found = []
    for place, one in enumerate(records(path)):
        try:
            json.loads(one)
        except ValueError:
            found.append(place)
    assert found == broken


def question(number: int, text: str = "words") -> dict[str, object]:
    item = {"id": f"{number}0", "title": "A title", "text": text, "date": "2020-01-01"}
    return {"id": number, "input": f"Generate a headline for the following article: {text} {number}", "profile": [item]}


def test_a_broken_record_costs_no_other(tmp_path: Path) -> None:
    rows = [json.dumps(question(number)) for number in range(120)]
    rows[110] = rows[110].replace('"profile"', "profile")
    path = tmp_path / "dev_questions.json"
    path.write_text(f"[{', '.join(rows)}]\r\n", encoding="utf-8-sig")
    found = load([path], get_task("news_headline"))
    assert len(found.users) == 119
    (problem,) = found.problems
    assert problem.record == "[110]" and problem.message.startswith("not valid JSON")
    assert {user.user_id for user in found.users} >= {"0", "119"}


def test_a_large_file_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[0")
        for number in range(400):
            file.write(f',\n{{"id": {number}, "text": "{"words and words " * 4000}"}}')
        file.write("]")
    tracemalloc.start()
    try:
        assert sum(1 for _ in records(path)) == 401
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()
