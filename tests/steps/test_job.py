"""What is finished is not made again, what was made from something else is refused, and the rest is made in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from helpers import names, provenance

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.job import Keep, Output, made_from, run, run_one, same_bytes


class Thing(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.thing/1"):
    """A small artifact."""

    name: str
    provenance: Provenance


class Notes:
    """Listens, and keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def read(path: Path) -> Thing:
    return typed_files.read_json(path, Thing)


def things(root: Path, *names: str, seed: int = 0) -> list[Output[Thing]]:
    return [Output(n, root / f"{n}.json", made_from(provenance(seed=seed), root / f"{n}.json", read)) for n in names]


class Maker:
    """Makes things, and stops before the one called `stop`. `made`: what it was asked for."""

    def __init__(self, seed: int = 0, stop: str = "", order: Callable[[str], str] = str) -> None:
        self.seed, self.stop, self.order = seed, stop, order
        self.made: list[str] = []

    def one(self, output: Output[Thing]) -> Thing:
        if output.name == self.stop:
            raise RuntimeError("stopped")
        thing = Thing(name=output.name, provenance=provenance(seed=self.seed))
        typed_files.write_json(output.path, thing)
        self.made.append(output.name)
        return thing

    def __call__(self, todo: Sequence[Output[Thing]], keep: Keep[Thing]) -> None:
        for output in sorted(todo, key=lambda one: self.order(one.name)):
            keep(output, self.one(output))


def test_all_are_made_and_come_back_in_the_order_given(tmp_path: Path) -> None:
    maker, given = Maker(), things(tmp_path, "b", "c", "a")
    rows = run(given, maker, place=tmp_path / "place")
    assert maker.made == ["a", "b", "c"]
    assert [(row.name, row.path, row.state) for row in rows] == [(one.name, one.path, "made") for one in given]
    assert [row.value for row in rows] == [read(one.path) for one in given]
    assert names(tmp_path) == ["a.json", "b.json", "c.json"]


def test_what_is_finished_is_not_made_again(tmp_path: Path) -> None:
    run(things(tmp_path, "c", "a"), Maker(), place=tmp_path)
    maker, notes = Maker(), Notes()
    rows = run(things(tmp_path, "a", "b", "c", "d"), maker, place=tmp_path, things="things", report=notes)
    assert maker.made == ["b", "d"]
    assert [row.state for row in rows] == ["finished", "made", "finished", "made"]
    assert [row.value for row in rows] == [read(tmp_path / f"{name}.json") for name in "abcd"]
    assert notes.told == ["2 of 4 things are finished already"]


def test_when_all_is_finished_nothing_is_called(tmp_path: Path) -> None:
    run(things(tmp_path, "a", "b"), Maker(), place=tmp_path)
    rows = run(things(tmp_path, "a", "b"), pytest.fail, place=tmp_path)
    assert [row.state for row in rows] == ["finished", "finished"]


def test_of_nothing_nothing_is_made(tmp_path: Path) -> None:
    assert run([], pytest.fail, place=tmp_path / "new" / "place") == []
    assert names(tmp_path) == []


def test_what_was_made_from_something_else_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run(things(tmp_path, "b", seed=1), Maker(seed=1), place=tmp_path)
    before = (tmp_path / "b.json").read_bytes()
    for dry_run in (False, True):
        with pytest.raises(DataError, match="was made with other settings: seed 1 -> 0") as caught:
            run(things(tmp_path, "a", "b", "c"), pytest.fail, place=tmp_path / "place", dry_run=dry_run)
        assert caught.value.where == str(tmp_path / "b.json")
    assert names(tmp_path) == ["b.json"]
    assert (tmp_path / "b.json").read_bytes() == before


def test_with_force_all_are_made(tmp_path: Path) -> None:
    run(things(tmp_path, "a"), Maker(), place=tmp_path)
    run(things(tmp_path, "b", seed=1), Maker(seed=1), place=tmp_path)
    maker, notes = Maker(), Notes()
    rows = run(things(tmp_path, "a", "b"), maker, place=tmp_path, force=True, report=notes)
    assert maker.made == ["a", "b"]
    assert [row.state for row in rows] == ["made", "made"]
    assert read(tmp_path / "b.json").provenance == provenance()
    assert notes.told == []


def test_a_dry_run_says_what_is_to_do_and_touches_nothing(tmp_path: Path) -> None:
    root = tmp_path / "new"
    rows = run(things(root, "a", "b"), pytest.fail, place=root / "place", dry_run=True)
    assert [(row.state, row.value) for row in rows] == [("to do", None), ("to do", None)]
    assert not root.exists()
    run(things(root, "b"), Maker(), place=root)
    for force, states in ((False, ["to do", "finished"]), (True, ["to do", "to do"])):
        rows = run(things(root, "a", "b"), pytest.fail, place=root / "place", dry_run=True, force=force)
        assert [row.state for row in rows] == states
    assert names(root) == ["b.json"]


def test_the_place_is_locked_from_the_first_look_to_the_last_write_and_not_in_a_dry_run(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def there(moment: str) -> None:
        seen.append((moment, (tmp_path / ".place.perpcs.lock").exists()))

    def make(todo: Sequence[Output[str]], keep: Keep[str]) -> None:
        for one in todo:
            keep(one, "x")
            there("make")

    outputs = [Output("a", tmp_path / "a", lambda: there("look"))]
    run(outputs, make, place=tmp_path / "place", dry_run=True)
    run(outputs, make, place=tmp_path / "place")
    assert seen == [("look", False), ("look", True), ("make", True)]
    assert names(tmp_path) == []


def test_what_was_made_before_an_error_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        run(things(tmp_path, "a", "b", "c"), Maker(stop="c"), place=tmp_path / "place")
    assert names(tmp_path) == ["a.json", "b.json"]
    maker = Maker()
    rows = run(things(tmp_path, "a", "b", "c"), maker, place=tmp_path / "place")
    assert maker.made == ["c"]
    assert [row.state for row in rows] == ["finished", "finished", "made"]


def test_outputs_in_one_file_are_told_apart(tmp_path: Path) -> None:
    """Several rows of a file have one path."""
    path = tmp_path / "rows"
    outputs = [Output("a", path, lambda: None), Output("b", path, lambda: "old"), Output("c", path, lambda: None)]

    def make(todo: Sequence[Output[str]], keep: Keep[str]) -> None:
        for one in reversed(todo):
            keep(one, one.name)

    rows = run(outputs, make, place=path)
    assert [(row.state, row.value) for row in rows] == [("made", "a"), ("finished", "old"), ("made", "c")]


def test_a_single_output(tmp_path: Path) -> None:
    (output,) = things(tmp_path, "a")
    maker, notes = Maker(), Notes()

    def make() -> Thing:
        return maker.one(output)

    assert run_one(output, make, dry_run=True).state == "to do"
    assert names(tmp_path) == []
    made = run_one(output, make, report=notes)
    assert (made.name, made.path, made.state, made.value) == ("a", output.path, "made", read(output.path))
    again = run_one(output, make, report=notes)
    assert (again.state, again.value, maker.made) == ("finished", made.value, ["a"])
    assert notes.told == [f"{output.path} is finished already"]
    assert run_one(output, make, force=True).state == "made"
    assert maker.made == ["a", "a"]
    (other,) = things(tmp_path, "a", seed=1)
    with pytest.raises(DataError, match="was made with other settings"):
        run_one(other, pytest.fail)


def test_made_from(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    finished = made_from(provenance(), path, read)
    assert finished() is None
    thing = Thing(name="a", provenance=provenance())
    typed_files.write_json(path, thing)
    assert finished() == thing
    with pytest.raises(DataError, match="seed 0 -> 1"):
        made_from(provenance(seed=1), path, read)()
    path.write_text("{}")
    with pytest.raises(DataError, match="expected the format"):
        finished()


def test_what_is_no_such_artifact_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "place"
    finished = made_from(provenance(), place, lambda path: None)
    place.mkdir()
    assert finished() is None
    (place / "mine").touch()
    with pytest.raises(UsageError, match="place: already exists"):
        finished()


def test_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert same_bytes(path, [b"x"])() is None
    path.write_bytes(b"x")
    assert same_bytes(path, [b"x"])() is True
    with pytest.raises(UsageError, match="a: already exists"):
        same_bytes(path, [b"y"])()
    with pytest.raises(UsageError, match="already exists"):
        same_bytes(tmp_path, [b"x"])()
    (tmp_path / "empty").mkdir()
    assert same_bytes(tmp_path / "empty", [b"x"])() is None
