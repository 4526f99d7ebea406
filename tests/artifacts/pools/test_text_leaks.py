"""Windows of words, and what is read of a file."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from perpcs_cli.artifacts.pools import text_leaks
from perpcs_cli.artifacts.pools.text_leaks import LETTERS, find_names, find_words, odd_content, windows
from perpcs_cli.artifacts.users import Query, User

SECRET = "Nine quiet otters borrowed the mayor's trumpet."
USER = User(user_id="u7", history=[{"text": SECRET}])
words = st.lists(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=8), max_size=20)


def test_windows_by_hand() -> None:
    assert windows("A bee, and_a sea; overnight Trumpeters leave!") == {
        "a bee and a sea overnight trumpeters",
        "bee and a sea overnight trumpeters",
        "and a sea overnight trumpeters",
        "a sea overnight trumpeters leave",
        "sea overnight trumpeters leave",
        "overnight trumpeters leave",
    }
    assert windows("only a few short words") == set()
    assert windows("0.5 1.0 0.25 0.75 1.0 0.125 0.875 0.0625 0.5") == set()


@given(words)
def test_a_window_is_as_short_as_it_can_be(some: list[str]) -> None:
    for window in windows(" ".join(some)):
        parts = window.split()
        assert sum(map(len, parts)) >= LETTERS > sum(map(len, parts[:-1]))


@given(words, words, words)
def test_a_quoted_text_is_found_wherever_it_stands(before: list[str], text: list[str], after: list[str]) -> None:
    quoted = windows(" ".join([*before, *text, *after]))
    assert windows(" ".join(text)) <= quoted


@given(
    st.lists(
        st.sampled_from(["a", "the", "7", "49", "a1b2c3", "otters", "trumpet", "borrowed", "overnight", "é"]),
        max_size=30,
    )
)
def test_windows_are_counted_word_by_word(some: list[str]) -> None:
    naive = set()
    for start in range(len(some)):
        for end in range(start + 1, len(some) + 1):
            found = "".join(some[start:end])
            if len(found) >= LETTERS:
                naive |= {" ".join(some[start:end])} if 2 * sum(map(str.isalpha, found)) >= LETTERS else set()
                break
    assert windows(" ".join(some)) == naive


@given(st.integers(0, 40), st.integers(0, 60), st.integers(1, 40))
def test_a_stretch_is_found_across_blocks(tmp_path_factory, before: int, length: int, block: int) -> None:
    path = tmp_path_factory.mktemp("stretch") / "t.dat"
    text = ("nine quiet otters borrowed the mayors trumpet " * 2)[:length]
    path.write_bytes(b"\0" * before + text.encode() + b"\0" * 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_leaks, "BLOCK", block)
        assert list(text_leaks.texts_in(path)) == [text] * (length >= LETTERS)


def test_scripts_without_spaces() -> None:
    text = "".join(chr(0x4E00 + 7 * n) for n in range(40))
    assert windows(f"«{text[5:35]}»") <= windows(text)
    assert len(windows(text)) == 40 - LETTERS + 1


PLACES = {
    "plain.json": lambda path, text: path.write_text(json.dumps({"a": [{"b": text}]})),
    "nested.json": lambda path, text: path.write_text(json.dumps({"a": json.dumps({"b": f"\n{text}\u00e9"})})),
    "lines.jsonl": lambda path, text: path.write_text(json.dumps(1) + "\n" + json.dumps(text.upper()) + "\n"),
    "key.safetensors": lambda path, text: save_file({text: torch.ones(1)}, path),
    "metadata.safetensors": lambda path, text: save_file({"a": torch.ones(1)}, path, {"m": json.dumps(text)}),
    "tensor.safetensors": lambda path, text: save_file(
        {"a": torch.tensor(list(text.encode()), dtype=torch.uint8)}, path
    ),
    "unknown": lambda path, text: path.write_bytes(b"\x00\xff\x01" + text.encode() + b"\xfe"),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_a_users_words_are_found(tmp_path, place) -> None:
    path = tmp_path / place
    PLACES[place](path, SECRET)
    (leak,) = find_words([path], [USER])
    assert (leak.file, leak.user_id, leak.field) == (str(path), "u7", "history 0, text")
    other = User(user_id="u8", history=[{"text": "Some other words that nobody has written into any file at all."}])
    assert find_words([path], [other]) == []
    assert find_words([path], [USER], known=[f"Please answer: {SECRET}"]) == []


def test_all_that_is_a_users_own(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(SECRET))
    query = Query(id="q", input=SECRET, output=SECRET)
    user = User(user_id="u", history=[{"a": ["no", SECRET]}], queries=[query], profile=SECRET)
    assert [leak.field for leak in find_words([path], [user])] == [
        "history 0, a",
        "query q",
        "query q, output",
        "profile",
    ]


def test_an_empty_file(tmp_path) -> None:
    for name in ("a.safetensors", "b.json", "c"):
        (tmp_path / name).touch()
    files = sorted(tmp_path.iterdir())
    assert find_words(files, [USER]) == []
    assert [odd_content(path) for path in files] == [[], [], []]


def test_names(tmp_path) -> None:
    path, lines = tmp_path / "a.json", tmp_path / "b.txt"
    path.write_text(json.dumps({"u7": [12, "see u8.", "u91", "13"], "x": {"path": "sharers/u9"}}))
    lines.write_text("u7\nu70\n")
    assert find_names([path, lines], ["u7", "u8", "u9", "12", "13"]) == [
        (str(path), "u7"),
        (str(path), "u8"),
        (str(path), "13"),
        (str(path), "u9"),
        (str(lines), "u7"),
    ]


@pytest.mark.parametrize("others", [0, 100])
def test_names_that_json_spells_in_other_ways(tmp_path, others) -> None:
    """Few names are looked for in a file's bytes first, many are not: the same are found."""
    names = ["ärger", "o k", 'a"b', "plain", "-x", "x-", *(f"other{number}" for number in range(others))]
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps({"x": "see ärger"}),
        json.dumps({"x": "\\n o k \\n"}, ensure_ascii=False),
        json.dumps({"x": 'an a"b there'}),
        '{"x": "pl\\u0061in"}',
        json.dumps({"x": json.dumps({"y": ["plain-x", "x--x", "plain"]})}),
        json.dumps({"x": "-x"}),
        json.dumps({"x": "an x- here"}),
    ]
    path.write_text("\n".join(lines))
    assert find_names([path], names) == [(str(path), name) for name in ("ärger", "o k", 'a"b', "plain", "-x", "x-")]
    assert find_names([path], ["ärger", "plain"]) == [(str(path), "ärger"), (str(path), "plain")]
    assert find_names([path], ["o k", "nobody"]) == [(str(path), "o k")]


def test_a_text_of_many_files_is_found_in_each(tmp_path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(json.dumps({"a": SECRET, "b": SECRET}))
    files = sorted(tmp_path.iterdir())
    assert [(leak.file, leak.field) for leak in find_words(files, [USER])] == [
        (str(path), "history 0, text") for path in files
    ]


def test_long_texts_and_pickles(tmp_path) -> None:
    long = "one two three four five six seven eight nine ten"
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"settings": [long]}))
    assert odd_content(path) == [f"{path}: holds a text of 10 words"]
    assert odd_content(path, {long}) == []
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors", {"perpcs": json.dumps({"x": long})})
    assert odd_content(tmp_path / "b.safetensors") == [f"{tmp_path / 'b.safetensors'}: holds a text of 10 words"]
    for name, data in (("x.pt", b""), ("y", pickle.dumps({})), ("z.dat", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(data)
        (problem,) = odd_content(tmp_path / name)
        assert "is a pickle" in problem


def test_a_tensor_files_length_is_no_pickle(tmp_path) -> None:
    # A header of 640 bytes begins like a pickle of protocol 2.
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).ljust(640)
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert odd_content(path) == []
