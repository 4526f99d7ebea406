"""Several users' searches in step: each finds what it finds alone, and a killed round is decoded again as it was."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from planted_search import Target, engine_of, rows_of, settings

from perpcs_cli.methods.prime.in_step import search_in_step
from perpcs_cli.methods.prime.racing import NO_RACE, Race
from perpcs_cli.methods.prime.search import Choice, search
from perpcs_cli.model.loading.base import Base

NAMES = ("a", "b", "c")
RACES = [NO_RACE, Race(0.4, 2)]


@pytest.fixture
def targets(tiny: Base) -> list[Target]:
    """Three users with histories of different lengths, two of whom have sharers in common."""
    return [Target(tiny, items=5), Target(tiny, items=4, first=2), Target(tiny, items=7, first=9)]


def run(
    targets: Sequence[Target], place: Path, *, race: Race = NO_RACE, names: Sequence[str] = NAMES, budget: int = 21
) -> tuple[list[list[Choice]], list[list[tuple[int, int, int]]]]:
    """(each user's choices, the calls of the engine: who asked for how many models on how many items)."""
    place.mkdir(exist_ok=True)
    chosen = settings(alpha=(0.0, 1.0), budget=budget)
    named = list(zip(names, targets, strict=True))
    evaluators = [target.evaluator(place / f"{name}.jsonl", race=race) for name, target in named]
    searches = [search(target.space, chosen, seed=0, user_id=name) for name, target in named]
    calls: list[list[tuple[int, int, int]]] = []
    honest = engine_of(*targets)

    def engine(asked):
        calls.append([(number, len(ask.models), ask.last - ask.first) for number, ask in asked.items()])
        return honest(asked)

    return search_in_step(list(zip(searches, evaluators, strict=True)), engine), calls


@pytest.mark.parametrize("race", RACES)
def test_each_finds_what_it_finds_alone(targets: list[Target], tmp_path: Path, race: Race) -> None:
    together, calls = run(targets, tmp_path / "together", race=race)
    alone = [run([one], tmp_path / "alone", race=race, names=[name]) for one, name in zip(targets, NAMES, strict=True)]
    assert together == [choices for ((choices,), _) in alone]
    for name in NAMES:
        assert rows_of(tmp_path / "together" / f"{name}.jsonl") == rows_of(tmp_path / "alone" / f"{name}.jsonl")
    assert len(calls) == max(len(own) for _, own in alone) == (3 if race is NO_RACE else 9)
    assert {number for call in calls for number, *_ in call} == {0, 1, 2}


@pytest.mark.parametrize("race", RACES)
def test_a_round_that_was_killed_between_two_traces(targets: list[Target], tmp_path: Path, race: Race) -> None:
    whole = tmp_path / "whole"
    found, calls = run(targets, whole, race=race)
    content = {name: (whole / f"{name}.jsonl").read_bytes() for name in NAMES}
    each = len(calls) // 3
    for written in (0b001, 0b110, 0b100):
        # Some have their second round, and others do not.
        place = tmp_path / f"{written}"
        place.mkdir()
        for number, name in enumerate(NAMES):
            lines = content[name].splitlines(keepends=True)
            rounds = 2 if written & (1 << number) else 1
            calls_of = [row.call for row in rows_of(whole / f"{name}.jsonl")]
            (place / f"{name}.jsonl").write_bytes(b"".join(lines[: 1 + sum(call < rounds for call in calls_of)]))
        again, resumed = run(targets, place, race=race)
        assert again == found
        assert resumed == calls[each:]
        assert {name: (place / f"{name}.jsonl").read_bytes() for name in NAMES} == content


def test_who_knows_a_round_already_stays_away(targets: list[Target], tmp_path: Path) -> None:
    place = tmp_path / "t"
    run(targets[:1], place, names=NAMES[:1], budget=14)
    first = (place / "a.jsonl").read_bytes()
    found, calls = run(targets, place)
    # The first one's last round is run again with that of the others; what stands in its trace stays.
    assert [[number for number, *_ in call] for call in calls] == [[1, 2], [0, 1, 2], [0, 1, 2]]
    assert (place / "a.jsonl").read_bytes().startswith(first)
    assert found == run(targets, tmp_path / "new")[0]
    assert run(targets, place) == (found, [])


def test_a_trace_is_not_made_longer_by_a_round_that_is_run_again(targets: list[Target], tmp_path: Path) -> None:
    place = tmp_path / "t"
    run(targets[:2], place, names=NAMES[:2], budget=7)
    shutil.copy(place / "a.jsonl", place / "before")
    (place / "b.jsonl").unlink()
    _, calls = run(targets[:2], place, names=NAMES[:2], budget=7)
    assert [number for number, *_ in calls[0]] == [0, 1]
    assert (place / "a.jsonl").read_bytes() == (place / "before").read_bytes()
