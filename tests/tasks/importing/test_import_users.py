"""Import: three layouts, time order, and a report of every broken record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perpcs_cli.artifacts.users import Query, User, write_users
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.importing import file_layouts
from perpcs_cli.tasks.importing.file_layouts import read_sources
from perpcs_cli.tasks.importing.import_users import load, read_users
from perpcs_cli.tasks.importing.time_order import in_time_order
from perpcs_cli.tasks.spec import get_task

HEADLINES = get_task("news_headline")
ASK = "Generate a headline for the following article: "
REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


def put(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def per_pcs(**user: object) -> dict[str, object]:
    item = {"id": 1, "text": "It rained.", "title": "Rain"}
    query = {"id": "q1", "input": f"{ASK}Sun.", "gold": "Sun"}
    return {"user_id": "u1", "profile": [item], "query": [query], **user}


def test_the_per_pcs_layout(tmp_path: Path) -> None:
    put(tmp_path / "users.json", [per_pcs(user_id=17)])

    found = load([tmp_path], HEADLINES)

    assert found.users == [
        User(
            user_id="17",
            history=[{"id": "1", "text": "It rained.", "title": "Rain"}],
            queries=[Query(id="q1", input=f"{ASK}Sun.", output="Sun")],
        )
    ]
    assert found.problems == []
    assert found.notes == ["histories left in the file's order, for want of readable dates: 1"]


def test_lamps_questions_and_outputs(tmp_path: Path) -> None:
    profile = [
        {"id": "2", "text": "Later.", "title": "Late", "date": "2020-01-02"},
        {"id": "1", "text": "Earlier.", "title": "Early", "date": "2020-01-01"},
    ]
    put(tmp_path / "dev_questions.json", [{"id": "410", "input": f"{ASK}Sun.", "profile": profile}])
    put(tmp_path / "dev_outputs.json", {"task": "LaMP_4", "golds": [{"id": "410", "output": "Sun"}]})

    found = load([tmp_path], HEADLINES)

    assert found.users == [
        User(
            user_id="410",
            history=profile[::-1],
            queries=[Query(id="410", input=f"{ASK}Sun.", output="Sun")],
        )
    ]
    assert (found.problems, found.notes) == ([], [])


def test_questions_that_name_their_user_are_one_user(tmp_path: Path) -> None:
    items = [{"id": str(n), "text": f"Text {n}.", "title": f"Title {n}", "date": str(n)} for n in range(3)]
    questions = [
        {"id": "a", "user_id": 9, "input": f"{ASK}A.", "profile": items[1:]},
        {"id": "b", "user_id": 9, "input": f"{ASK}B.", "profile": items[:2]},
    ]

    found = load([put(tmp_path / "questions.json", questions)], HEADLINES)

    assert [(user.user_id, user.history, [q.id for q in user.queries]) for user in found.users] == [
        ("9", items, ["a", "b"])
    ]
    assert found.problems == []


def test_our_own_users_come_back_as_they_were(tmp_path: Path) -> None:
    users = [
        User(user_id="u1", history=[{"id": "0", "text": "It rained.", "title": "Rain"}], profile="Brief."),
        User(user_id="u2", queries=[Query(id="q", input=f"{ASK}Sun.")]),
    ]
    for count in (1, 2):
        write_users(tmp_path / "users.jsonl", users[:count])
        assert load([tmp_path / "users.jsonl"], HEADLINES).users == users[:count]


def test_ratings_become_text_and_citations_stay_lists(tmp_path: Path) -> None:
    reviews = [{"id": 1, "text": "fine", "score": 4}, {"id": 2, "text": "great", "score": 5.0}]
    papers = [{"id": 1, "title": "On A", "abstract": "", "citation": ["On B"]}, {"id": 2, "title": "On C"}]
    rated = load([put(tmp_path / "r.json", [per_pcs(profile=reviews, query=[])])], get_task("LaMP_3"))
    cited = load([put(tmp_path / "c.json", [per_pcs(profile=papers, query=[])])], get_task("LaMP_1"))

    assert [item["score"] for item in rated.users[0].history] == ["4", "5"]
    assert [item.get("citation") for item in cited.users[0].history] == [["On B"], None]
    assert rated.problems == cited.problems == []


BROKEN: list[tuple[str, dict[str, object], str]] = [
    ("a slash in the user id", {"user_id": "a/b"}, "[0]: user_id: user id 'a/b' cannot name a file"),
    ("no user id", {"user_id": None}, "[0]: user_id: is missing or not text"),
    ("no history", {"profile": None}, "[0]: profile: is missing"),
    ("an item that is text", {"profile": ["rain"]}, "user 'u1', profile[0]: is not an object"),
    (
        "an item without a title",
        {"profile": [{"id": 1, "text": "It rained."}]},
        "user 'u1', profile[0]: title: is missing",
    ),
    (
        "an item with an empty title",
        {"profile": [{"id": 1, "text": "It rained.", "title": ""}]},
        "user 'u1', profile[0]: title: is missing, empty or not text",
    ),
    (
        "an item whose text is a list",
        {"profile": [{"id": 1, "text": ["It", "rained"], "title": "Rain"}]},
        "user 'u1', profile[0]: text: is not text",
    ),
    (
        "a query without an id",
        {"query": [{"input": f"{ASK}Sun."}]},
        "user 'u1', query[0]: id: is missing or not text",
    ),
    (
        "a query of another form",
        {"query": [{"id": "q1", "input": "Sun?"}]},
        "user 'u1', query[0]: input: the input of query 'q1' is not a LaMP_4 prompt: 'Sun?'. "
        "Expected: Generate a headline for the following article: TEXT",
    ),
    (
        "a query id twice",
        {"query": [{"id": "q1", "input": f"{ASK}A."}, {"id": "q1", "input": f"{ASK}B."}]},
        "user 'u1', query[1]: id: the query id 'q1' occurs twice",
    ),
    (
        "a gold that is a list",
        {"query": [{"id": "q1", "input": f"{ASK}A.", "gold": ["A"]}]},
        "user 'u1', query[0]: gold: is missing, empty or not text",
    ),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_record_is_reported(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = put(tmp_path / "users.json", [per_pcs(**change)])

    assert [str(problem) for problem in load([path], HEADLINES).problems] == [f"{path}: {message}"]


def test_the_good_records_beside_broken_ones_are_kept(tmp_path: Path) -> None:
    items = [{"id": 1, "text": "No title."}, {"id": 2, "text": "It rained.", "title": "Rain"}]
    path = put(tmp_path / "users.json", [per_pcs(profile=items), per_pcs(user_id="u2", query=[]), per_pcs()])

    found = load([path], HEADLINES)

    assert [(u.user_id, [item["id"] for item in u.history]) for u in found.users] == [
        ("u1", ["2"]),
        ("u2", ["1"]),
    ]
    assert [(p.record, p.field) for p in found.problems] == [
        ("user 'u1', profile[0]", "title"),
        ("[2]", "user_id"),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"NaN", "NaN is no number that can be read"),
        (b"-Infinity", "-Infinity is no number that can be read"),
        (b"1e999", "1e999 is no number that can be read"),
        (b"9" * 5000, "99999999999999999999 is no number that can be read"),
        (b'"a\\ud800"', "holds half a character, or bytes that are no UTF-8"),
        (b'"a\xed\xa0\x80"', "holds half a character, or bytes that are no UTF-8"),
        (b'"caf\xe9"', "holds half a character, or bytes that are no UTF-8"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "with a byte order mark"])
def test_what_json_cannot_say_is_a_problem_of_its_record(tmp_path: Path, text: bytes, why: str, mark: bytes) -> None:
    item = '{"id": "1", "text": "Rain.", "title": "Wet"}'
    question = '{"id": "%s", "input": "' + ASK + 'Sun.", "profile": [%s]}'
    broken = item.replace('"Rain."', "HERE")
    path = tmp_path / "dev_questions.json"
    content = f"[{question % (1, item)}, {question % (2, f'{broken}, {item}')}]"
    path.write_bytes(mark + content.encode().replace(b"HERE", text))

    found = load([path], HEADLINES)

    assert [str(problem) for problem in found.problems] == [f"{path}: user '2', profile[0]: text: {why}"]
    assert [(user.user_id, len(user.history)) for user in found.users] == [("1", 1), ("2", 1)]


@pytest.mark.parametrize("name", ["user_id", "id", "input"])
def test_a_question_of_which_json_cannot_say_a_part_is_one_problem(tmp_path: Path, name: str) -> None:
    fields = {"user_id": '"u"', "id": '"q"', "input": json.dumps(f"{ASK}Sun."), "profile": "[]"}
    path = tmp_path / "dev_questions.json"
    good = ", ".join(f'"{key}": {value}' for key, value in fields.items())
    path.write_text(f"[{{{good}}}, {{{good.replace(fields[name], 'NaN')}}}]")

    found = load([path], HEADLINES)

    assert [(problem.field, problem.message) for problem in found.problems] == [
        (name, "NaN is no number that can be read")
    ]
    assert [len(user.queries) for user in found.users] == [1]


def test_half_a_character_in_the_name_of_a_field_can_be_shown(tmp_path: Path) -> None:
    put(tmp_path / "users.json", [per_pcs(profile=[{"id": 1, "text": "a", "title": "b", "x\ud800": 1}])])
    found = load([tmp_path], HEADLINES)
    assert found.notes[0] == "fields left out, not used by news_headline (1): x?"
    assert len(found.users[0].history) == 1


def test_an_id_is_one_line(tmp_path: Path) -> None:
    path = put(tmp_path / "users.json", [per_pcs(user_id="u1\u2028u2"), per_pcs(user_id="u3")])
    found = load([path], HEADLINES)
    assert [user.user_id for user in found.users] == ["u3"]
    assert [problem.field for problem in found.problems] == ["user_id"]


def test_a_rating_is_one_of_five(tmp_path: Path) -> None:
    path = put(tmp_path / "u.json", [per_pcs(profile=[{"text": "ok", "score": 4.5}], query=[])])

    assert [p.message for p in load([path], get_task("LaMP_3")).problems] == [
        "'4.5' is none of the labels 1, 2, 3, 4, 5"
    ]


def test_labels_must_agree_with_the_golds_and_with_each_other(tmp_path: Path) -> None:
    put(tmp_path / "users.json", [per_pcs()])
    golds = [{"id": "q1", "output": "Sunny"}, {"id": "q1", "output": "Sun"}, {"id": "q2", "output": "Hail"}]
    put(tmp_path / "users_label.json", {"task": "LaMP_4", "golds": golds})

    found = load([tmp_path], HEADLINES)

    assert [(p.record, p.field, p.message) for p in found.problems] == [
        ("golds[1]", "output", "is 'Sun', but the first label of 'q1' is 'Sunny'"),
        ("user 'u1', query[0]", "gold", "is 'Sun', but another answer is 'Sunny'"),
    ]
    assert found.users[0].queries == []
    assert "labels left out, belonging to no query: 1" in found.notes


def test_items_of_one_id_must_be_the_same(tmp_path: Path) -> None:
    questions = [
        {"id": n, "user_id": "u", "input": f"{ASK}A.", "profile": [{"id": 1, "text": "T", "title": n}]}
        for n in ("a", "b")
    ]

    found = load([put(tmp_path / "q.json", questions)], HEADLINES)

    assert [p.message for p in found.problems] == ["another item with the id '1' has other content"]
    assert [item["title"] for item in found.users[0].history] == ["a"]


def test_fields_that_the_task_does_not_use_are_told_once(tmp_path: Path) -> None:
    items = [{"id": n, "text": "T", "title": "t", "date": "2020", "author": "x", "url": "y"} for n in (1, 2)]
    found = load([put(tmp_path / "u.json", [per_pcs(profile=items)])], HEADLINES)

    assert found.users[0].history[0] == {"id": "1", "text": "T", "title": "t", "date": "2020"}
    assert found.notes == ["fields left out, not used by news_headline (2): author, url"]


def test_a_broken_line_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text('{"user_id": "u1"}\n{"user_id":\n', encoding="utf-8")

    found = load([path], HEADLINES)

    assert [user.user_id for user in found.users] == ["u1"]
    assert [(p.record, p.message.partition(":")[0]) for p in found.problems] == [("line 2", "not valid JSON")]


@pytest.mark.parametrize("first", ['{"user_id": "u1"}', '{"user_id":'])
def test_lines_are_read_as_they_are_asked_for(tmp_path: Path, first: str) -> None:
    """Of a whole first line none else is read before; of a broken one the file might still be a JSON value."""
    path = tmp_path / "users.jsonl"
    path.write_text(f'{first}\n\n3\n{{"user_id": "u2"}}\n', encoding="utf-8")
    sources = read_sources([path])
    (users,) = sources.users
    assert sources.problems == {path: []}
    rest = [user.user_id for user in users]
    whole = first.endswith("}")
    assert rest == (["u1", "u2"] if whole else ["u2"])
    assert [p.record for p in sources.problems[path]] == (["line 3"] if whole else ["line 1", "line 3"])


def test_problems_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"user_id": "u1"}\n{\n', encoding="utf-8")
    put(tmp_path / "b.json", [per_pcs(), 3])
    (tmp_path / "c.jsonl").write_text('{"user_id": "../u2"}\n{\n', encoding="utf-8")
    found = load([tmp_path / name for name in ("a.jsonl", "b.json", "c.jsonl")], HEADLINES)
    assert [(Path(p.file).name, p.record) for p in found.problems] == [
        ("a.jsonl", "line 2"),
        ("b.json", "[1]"),
        ("c.jsonl", "line 2"),
        ("b.json", "[0]"),
        ("c.jsonl", "line 1"),
    ]


def test_users_may_come_through_a_pipe(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b'{"user_id": "u1"}\n{"user_id": "u2"}\n')
    os.close(write)
    found = load([Path(f"/dev/fd/{read}")], HEADLINES)
    os.close(read)
    assert [user.user_id for user in found.users] == ["u1", "u2"]


def test_labels_of_another_task_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.json", {"task": "LaMP_3", "golds": []})

    with pytest.raises(DataError, match=r"holds labels of LaMP_3, not of news_headline \(LaMP_4\)"):
        load([path], HEADLINES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "none of the known layouts"),
        ("3\n4\n", "another value follows"),
        ("3", "none of the known layouts"),
    ],
)
def test_a_file_of_no_layout_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "users.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(DataError, match=message):
        load([path], HEADLINES)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no users\.json, users\.jsonl or \*questions\.json"):
        load([tmp_path], HEADLINES)


@pytest.mark.parametrize(
    ("dates", "order"),
    [
        (["2020-02-01", "2020-01", "2019"], [2, 1, 0]),
        (["1000000000", "999999999"], [1, 0]),
        (["2020", "2019", "2020", "2019"], [1, 3, 0, 2]),
        (["2020", "2019-05-01"], [1, 0]),
        (["2020", ""], None),
        (["May 2020", "2019"], None),
        # Moments, not texts: 22:30 and 22:45 in UTC.
        (["2019-03-07T23:45:00+01:00", "2019-03-07T22:30:00Z"], [1, 0]),
        (["2019-03-07 01:00:00 +0200", "2019-03-06 22:30:00"], [1, 0]),
        (["2019-03-07T00:00:00-05:00", "2019-03-07 04:59:59 UTC", "2019-03-07"], [2, 1, 0]),
        (["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"], [0, 1]),
        (["2019-13-01", "2018"], None),
        (["2019-03-07 noon", "2018"], None),
        (["9" * 5000, "1"], None),
        (["²", "1"], None),
    ],
)
def test_time_order(dates: list[str], order: list[int] | None) -> None:
    items = [{"id": str(place), "date": date} for place, date in enumerate(dates)]

    assert in_time_order(items) == (None if order is None else [items[place] for place in order])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data is not there")
@pytest.mark.parametrize(
    "name",
    ["citation", "movie_tagging", "news_headline", "product_rating", "scholarly_title", "tweet_paraphrase"],
)
def test_real_data_imports_without_problems(name: str) -> None:
    found = load([REAL_DATA / name], get_task(name))

    assert found.problems == []
    assert all(user.history and user.queries for user in found.users)
    assert all(query.output for user in found.users for query in user.queries)


def test_users_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes its way before the next record is read, of lines and of a list."""
    write_users(tmp_path / "users.jsonl", [User(user_id=str(number)) for number in range(5)])
    put(tmp_path / "users.json", [per_pcs(user_id=str(number), query=[]) for number in range(5, 10)])
    seen: list[str] = []
    decoded = file_layouts.decoded
    monkeypatch.setattr(file_layouts, "decoded", lambda data: seen.append("read") or decoded(data))
    found = read_users([tmp_path / "users.jsonl", tmp_path / "users.json"], HEADLINES, lambda user: seen.append("kept"))
    assert seen[1:] == ["read", "kept"] * 10
    assert (found.counts.users, found.counts.items, len(found.users)) == (10, 5, 10)


def test_users_stand_in_the_order_in_which_they_occur(tmp_path: Path) -> None:
    """Those who are whole at once, and those to whom later records add."""

    def asks(query: str, user: str) -> dict[str, object]:
        item = {"id": "1", "text": "It rained.", "title": "Rain"}
        return {"id": query, "user_id": user, "input": f"{ASK}{query}.", "profile": [item]}

    whole = [per_pcs(user_id=user) for user in "my"]
    mixed = [asks("a", "y"), whole[0], asks("b", "x"), asks("c", "y"), whole[1], asks("d", "m")]
    found = load([put(tmp_path / "users.json", mixed)], HEADLINES)
    assert [(user.user_id, len(user.queries)) for user in found.users] == [("y", 2), ("m", 1), ("x", 1)]
    assert [str(problem).split(": ", 1)[1] for problem in found.problems] == [
        "[4]: user_id: user 'y' occurs twice",
        "[5]: user_id: user 'm' occurs twice",
    ]
