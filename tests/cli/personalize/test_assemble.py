"""`perpcs assemble`: with --similar only the most similar sharers are on offer; batches and draws as published."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.io.typed_files import read_json
from perpcs_cli.artifacts.recipe import Recipe

LINE = "assemble --plain --user TARGET --out few"


def nearest(shell: Shell, count: int) -> set[str]:
    target = shell.ids("target")[0]
    return {one["user_id"] for one in json.loads(shell(f"similar --similar {count} --json").stdout)[target]}


def used(shell: Shell, directory: str = "few") -> Recipe:
    return read_json(shell.root / directory / f"{shell.ids('target')[0]}.json", Recipe)


def test_only_the_most_similar_sharers_are_on_offer(near: Shell) -> None:
    done = near(named(near, f"{LINE} --similar 2 --top-k 2"))
    assert done.exit_code == 0, done.stderr
    recipe = used(near)
    assert set(recipe.sharers) == nearest(near, 2)
    # Two of two are chosen at every linear layer.
    assert all({index for index, _ in mix} == {0, 1} for layers in recipe.weights.values() for mix in layers)
    assert near(named(near, "predict --user TARGET --recipes few --name few")).exit_code == 0


def test_what_a_recipe_is_made_of_is_shown(near: Shell) -> None:
    """Whoever has the largest mean weight comes first, in the line and in JSON."""
    done = near(named(near, f"{LINE} --top-k 2 --json"))
    (row,) = json.loads(done.stdout)
    weights = list(row["weights"].values())
    assert list(row["weights"]) == row["sharers"] and sum(weights) == pytest.approx(1, abs=1e-3)
    assert weights == sorted(weights, reverse=True)
    line = near(named(near, f"{LINE} --top-k 2")).stdout
    assert f"\t{weights[0]:.2f} {row['sharers'][0]}, {weights[1]:.2f} {row['sharers'][1]}" in line


def test_told_from_base_users(shell: Shell) -> None:
    """Other weights, of the same examples whenever asked, which the provenance names; and there must be base users."""
    line = "assemble --plain --user TARGET --top-k 3 --dtype float32"
    for flags in ("--out plain", "--contrast 3 --out few", "--contrast 3 --out again"):
        done = shell(named(shell, f"{line} {flags}"))
        assert done.exit_code == 0, done.stderr
    plain, told, again = (used(shell, name) for name in ("plain", "few", "again"))
    assert plain.weights != told.weights == again.weights
    assert set(told.provenance.inputs) - set(plain.provenance.inputs) == {"contrast"}
    assert shell(named(shell, f"{line} --contrast 2 --out other")).exit_code == 0
    assert used(shell, "other").provenance.inputs["contrast"] != told.provenance.inputs["contrast"]
    (shell.root / "splits" / "base.txt").rename(shell.root / "others.txt")
    done = shell(named(shell, f"{line} --contrast 3 --base-users @others.txt --out same"))
    assert done.exit_code == 0 and used(shell, "same") == told
    message = refused(shell(named(shell, f"{line} --contrast 2 --out none")), USAGE)
    assert message.startswith("--contrast: there are no base users")


def test_the_base_s_activations(shell: Shell) -> None:
    """The first layer's scores are the same; what later ones see is not."""
    line = "assemble --plain --user TARGET --top-k 3 --dtype float32 --activations"
    for activations in ("assembled", "base"):
        assert shell(named(shell, f"{line} {activations} --out {activations}")).exit_code == 0
    assembled, base = used(shell, "assembled").weights, used(shell, "base").weights
    first = next(iter(assembled))
    assert assembled[first][0] == base[first][0] and assembled != base


def test_all_sharers_are_what_no_restriction_gives(near: Shell) -> None:
    for flags in ("few --similar 4", "all"):
        assert near(named(near, f"assemble --plain --user TARGET --top-k 2 --out {flags}")).exit_code == 0
    assert used(near).weights == used(near, "all").weights


def test_a_recipe_of_others_on_offer_is_another_one(near: Shell) -> None:
    assert near(named(near, f"{LINE} --top-k 2 --similar 2")).exit_code == 0
    assert "already" in near(named(near, f"{LINE} --top-k 2 --similar 2")).stderr
    assert "similar 2 -> 3" in refused(near(named(near, f"{LINE} --top-k 2 --similar 3")), DATA)


def test_batches_may_be_drawn_and_pieces_be_kept(near: Shell) -> None:
    """What the published code does is a setting each, and part of the recipe's provenance."""
    line = "assemble --user TARGET --top-k 1 --batch-size 2"
    for flags in ("--out ordered", "--shuffle --out shuffled", "--shuffle --seed 4 --out other"):
        assert near(named(near, f"{line} {flags}")).exit_code == 0
    found = [used(near, name) for name in ("ordered", "shuffled", "other")]
    assert [one.provenance.settings["assemble"]["shuffle"] for one in found] == [False, True, True]
    assert not any(one.weights == other.weights for one, other in pairwise(found))
    few = f"{line} --top-k 2 --sample --top-p 1e-9 --seed 1"
    for flags in ("--out one", "--keep-k --out two"):
        assert near(named(near, f"{few} {flags}")).exit_code == 0
    sizes = [{len(mix) for layers in used(near, name).weights.values() for mix in layers} for name in ("one", "two")]
    assert min(sizes[1]) == 2 and 1 in sizes[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--similar 2 --top-k 3", "top-k is 3 and similar is 2"),
        ("--similar 9 --top-k 1", "9 sharers are asked for, and there are 4"),
        ("--similar 0", "--similar"),
    ],
)
def test_wrong_usage(ready: Shell, flags: str, message: str) -> None:
    assert message in refused(ready(named(ready, f"{LINE} {flags}")), USAGE)
