"""`recipes.jsonl`: many recipes in one file, whole at any moment, with what a run has made so far beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import provenance

from perpcs_cli.artifacts import caches, line_index, packed_recipes
from perpcs_cli.artifacts.io.journal import Appender, partial_path
from perpcs_cli.artifacts.packed_recipes import (
    change_recipes,
    check_places,
    each_recipe,
    files_in,
    find_recipes,
    made_so_far,
    pack_recipes,
    place_of,
    places_in,
    write_packed,
)
from perpcs_cli.artifacts.recipe import EVERY, Recipe, write_recipe
from perpcs_cli.errors import DataError, UsageError

POOL = "p" * 64


def recipe(user: str, weight: float = 1.0, pool: str = POOL) -> Recipe:
    return Recipe(
        user_id=user,
        method="per-pcs",
        merge="product",
        pool=pool,
        sharers=("s",),
        weights={EVERY: [[(0, weight)]]},
        provenance=provenance(),
    )


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write_packed(tmp_path / "recipes.jsonl", [recipe("a"), recipe("c")], [recipe("b"), recipe("d")])
    return tmp_path / "recipes.jsonl"


def users(place: Path) -> list[str]:
    return [one.user_id for one in each_recipe(place)]


def test_they_stand_in_the_order_of_their_users(packed: Path) -> None:
    assert users(packed) == ["a", "b", "c", "d"]


def test_one_users_recipe_is_read_alone(packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(line_index, "SMALL", 0)
    monkeypatch.setattr(caches, "SETTLED_NS", 0)
    monkeypatch.setattr(line_index, "cache_directory", lambda: tmp_path / "cache")
    assert find_recipes(packed, ["c", "x"]) == {"c": recipe("c")}
    monkeypatch.setattr(packed_recipes, "_placed", None)
    assert find_recipes(packed, ["c", "x"]) == {"c": recipe("c")}


def test_a_directory_is_read_the_same_way(tmp_path: Path) -> None:
    for user in "ab":
        write_recipe(tmp_path / "recipes" / f"{user}.json", recipe(user))
    assert find_recipes(tmp_path / "recipes", ["b", "x"]) == {"b": recipe("b")}
    assert [one for file in files_in(tmp_path / "recipes") for one in each_recipe(file)] == [recipe("a"), recipe("b")]
    (tmp_path / "recipes" / "b.json").rename(tmp_path / "recipes" / "x.json")
    with pytest.raises(DataError, match="is the recipe of 'b', and not of 'x'"):
        find_recipes(tmp_path / "recipes", ["x"])


def test_what_is_made_later_counts_and_a_torn_line_does_not(packed: Path) -> None:
    Appender(partial_path(packed)).append([recipe("e", 0.5), recipe("b", 0.5), recipe("b", 0.25)])
    with partial_path(packed).open("ab") as file:
        file.write(b'{"format":"perpcs.recipe/1","user_id":"a')
    found = made_so_far(packed, "abe")
    assert found == {"a": recipe("a"), "b": recipe("b", 0.25), "e": recipe("e", 0.5)}
    assert find_recipes(packed, "abe") == {"a": recipe("a"), "b": recipe("b")}
    pack_recipes(packed)
    assert list(each_recipe(packed)) == [recipe("a"), recipe("b", 0.25), recipe("c"), recipe("d"), recipe("e", 0.5)]
    assert not partial_path(packed).exists()


def test_a_first_run_and_one_that_made_nothing(tmp_path: Path) -> None:
    place = tmp_path / "new.jsonl"
    pack_recipes(place)
    partial_path(place).write_bytes(b'{"torn')
    pack_recipes(place)
    assert not list(tmp_path.iterdir())
    Appender(partial_path(place)).append([recipe("b"), recipe("a")])
    pack_recipes(place)
    assert users(place) == ["a", "b"]


def test_a_broken_file_is_never_written_over(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() + b"{")
    before = packed.read_bytes()
    Appender(partial_path(packed)).append([recipe("e")])
    with pytest.raises(DataError, match=r"recipes.jsonl, line 5"):
        pack_recipes(packed)
    assert packed.read_bytes() == before
    assert partial_path(packed).exists()


def test_a_user_has_one_recipe(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() * 2)
    with pytest.raises(DataError, match="user 'a' has two recipes"):
        users(packed)


def test_an_id_that_can_name_no_file(packed: Path) -> None:
    write_packed(packed, [recipe("../a")])
    with pytest.raises(DataError, match="cannot name a file"):
        users(packed)


def test_changing_them(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = {"a": None, "b": recipe("b", 0.5)}
    change_recipes(packed, lambda one: half.get(one.user_id, one))
    assert list(each_recipe(packed)) == [recipe("b", 0.5), recipe("c"), recipe("d")]
    monkeypatch.setattr(packed_recipes.typed_files, "write_jsonl", None)
    change_recipes(packed, lambda one: one)


def test_changing_one_of_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_recipe(path, recipe("a"))
    change_recipes(path, lambda _: recipe("a", 0.5))
    assert list(each_recipe(path)) == [recipe("a", 0.5)]
    change_recipes(path, lambda _: None)
    assert not path.exists()


def test_places(tmp_path: Path) -> None:
    for name in ("recipes", "recipes-empty"):
        (tmp_path / name).mkdir()
    write_packed(tmp_path / "recipes.jsonl", [recipe("a")])
    write_packed(tmp_path / "recipes-begun.partial.jsonl", [recipe("a")])
    (tmp_path / "recipes.md").write_text("notes")
    names = ["recipes", "recipes-begun.jsonl", "recipes-empty", "recipes.jsonl"]
    assert [path.name for path in places_in(tmp_path)] == names
    assert [path.name for path in files_in(tmp_path / "recipes-begun.jsonl")] == ["recipes-begun.partial.jsonl"]
    assert place_of(tmp_path / "recipes") == tmp_path / "recipes"
    (tmp_path / "recipes").rmdir()
    assert place_of(tmp_path / "recipes") == tmp_path / "recipes.jsonl"
    assert place_of(tmp_path / "recipes-new") == tmp_path / "recipes-new"
    check_places(
        [tmp_path / "recipes.jsonl", tmp_path / "recipes-begun.jsonl", tmp_path / "recipes-empty"], "--recipes"
    )
    for name in ("none", "none.jsonl", "recipes.md"):
        with pytest.raises(UsageError, match=f"no such (file|directory): .*{name}"):
            check_places([tmp_path / name], "--recipes")
