"""Recipes without some of their sharers."""

from __future__ import annotations

import msgspec
import pytest
from helpers import provenance
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.artifacts.recipe import Recipe, mentions, pack, uses, without_sharers

NAMES = ("s0", "s1", "s2", "s3")
MODULES = [f"layers.{layer}.{kind}_proj" for layer in range(2) for kind in "qv"]
mixes = st.lists(
    st.tuples(st.sampled_from(NAMES), st.floats(0.01, 2) | st.floats(-2, -0.01)), unique_by=lambda pair: pair[0]
)


def make(weights, settings=None) -> Recipe:
    sharers, packed = pack(weights)
    origin = msgspec.structs.replace(provenance(), settings=settings or {})
    return Recipe(
        user_id="u", method="per-pcs", merge="product", pool="0", sharers=sharers, weights=packed, provenance=origin
    )


def test_by_hand() -> None:
    recipe = make({"*": [("s0", 0.5), ("s1", 0.3), ("s2", 0.2)]}, {"mix": {"s0": 0.5, "s1": 0.3, "s2": 0.2}})
    changed = without_sharers(recipe, {"s0"})
    assert changed.sharers == ("s1", "s2")
    assert changed.weights == {"*": [[(0, 0.6), (1, 0.4)]]}
    assert changed.provenance.settings == {"mix": {"s1": 0.3, "s2": 0.2}, "renormalized": True}


def test_signs_are_kept() -> None:
    changed = without_sharers(make({"*": [("s0", 1.0), ("s1", -0.9), ("s2", 0.1)]}), {"s0"})
    assert changed.weights == {"*": [[(0, -1.8), (1, 0.2)]]}


def test_a_recipe_of_nobody_else_is_the_base() -> None:
    changed = without_sharers(make({module: [("s1", 1.0)] for module in MODULES}), {"s1"})
    assert changed.sharers == ()
    assert changed.weights == {"layers.*.q_proj": [[], []], "layers.*.v_proj": [[], []]}


@given(st.lists(mixes, min_size=4, max_size=4), st.sets(st.sampled_from(NAMES)))
def test_what_is_left(given_mixes, gone) -> None:
    recipe = make(dict(zip(MODULES, given_mixes, strict=True)))
    changed = without_sharers(recipe, gone)
    assert not uses(changed, gone)
    for pattern, before in recipe.weights.items():
        for old, new in zip(before, changed.weights[pattern], strict=True):
            was = {recipe.sharers[index]: weight for index, weight in old}
            now = {changed.sharers[index]: weight for index, weight in new}
            rest = {name: weight for name, weight in was.items() if name not in gone}
            assert now.keys() == rest.keys()
            if len(rest) == len(was):
                assert now == was
            elif rest:
                assert sum(map(abs, now.values())) == pytest.approx(sum(map(abs, was.values())), abs=4e-4)
                assert all(now[name] * weight > 0 for name, weight in rest.items())
                scales = [now[name] / weight for name, weight in rest.items() if abs(weight) > 0.5]
                assert max(scales, default=1) == pytest.approx(min(scales, default=1), abs=1e-3)


def test_mentions_are_whole_texts() -> None:
    value = {"a": ["s10", {"s1x": 1}], "b": "s"}
    assert not mentions(value, {"s1"})
    assert mentions({**value, "c": [["s1"]]}, {"s1"})
    assert mentions({"s1": 0}, {"s1"})


def test_being_named_in_the_provenance_counts() -> None:
    recipe = make({"*": [("s0", 1.0)]}, {"sharers": ["s0", "s3"]})
    assert uses(recipe, {"s3"})
    assert not uses(without_sharers(recipe, {"s3"}), {"s3"})
    assert without_sharers(recipe, {"s3"}).weights == recipe.weights


@pytest.mark.parametrize("left", [0.0, 1e-300])
def test_nothing_is_not_scaled_up(left: float) -> None:
    """No recipe of ours has such weights, but a file may."""
    recipe = make({"*": [("s0", 0.5), ("s3", 1.0)]})
    recipe = msgspec.structs.replace(recipe, weights={"*": [[(0, left), (1, 1.0)]]})
    assert without_sharers(recipe, {"s3"}).weights == {"*": [[(0, left)]]}
