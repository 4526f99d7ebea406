"""Recipes: compact, rounded once, and refused where they do not belong to the pool."""

from __future__ import annotations

import json

import msgspec
import pytest
from helpers import edit_json, provenance
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.artifacts.recipe import (
    EVERY,
    Recipe,
    mean_weights,
    pack,
    read_recipe,
    split_layer,
    unpack,
    write_recipe,
)
from perpcs_cli.errors import DataError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
POOL = "d" * 64


def layers(count):
    return [f"model.layers.{n}.self_attn.{p}" for n in range(count) for p in PROJECTIONS]


MODULES = layers(3)


def recipe(weights, sharers=("s0", "s1"), **changes):
    fields = {"user_id": "u", "method": "per-pcs", "merge": "product", "pool": POOL, "provenance": provenance()}
    return Recipe(**{**fields, **changes}, sharers=sharers, weights=weights)


def packed(named):
    sharers, weights = pack(named)
    return recipe(weights, sharers)


@given(
    st.fixed_dictionaries(
        {
            module: st.dictionaries(
                st.sampled_from(["s0", "s1", "s10", "z"]), st.integers(-15000, 15000).map(lambda n: n / 10000)
            ).map(lambda mix: sorted(mix.items()))
            for module in MODULES
        }
    )
)
def test_round_trip(named):
    read = msgspec.json.decode(msgspec.json.encode(packed(named)), type=Recipe)
    kept = {module: [(sharer, weight) for sharer, weight in mix if weight] for module, mix in named.items()}
    assert unpack(read, MODULES, where="r") == kept


def test_the_layout():
    sharers, weights = pack(
        {
            "model.layers.0.q_proj": [("b", 0.75), ("a", 0.25)],
            "model.layers.2.q_proj": [("a", 1.0)],
            "lm_head": [("b", -0.5)],
        }
    )
    assert sharers == ("a", "b")
    assert weights == {"model.layers.*.q_proj": [[(0, 0.25), (1, 0.75)], [], [(0, 1.0)]], "lm_head": [[(1, -0.5)]]}


def test_weights_are_rounded_and_zeros_left_out():
    sharers, weights = pack({"m": [("a", 1 / 3), ("b", 0.00004), ("c", 0.0)]})
    assert (sharers, weights) == (("a",), {"m": [[(0, 0.3333)]]})


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("model.layers.11.self_attn.q_proj", ("model.layers.*.self_attn.q_proj", 11)),
        ("layers.3.experts.2.up", ("layers.*.experts.2.up", 3)),
        ("lm_head", ("lm_head", 0)),
        (EVERY, (EVERY, 0)),
    ],
)
def test_split_layer(module, expected):
    assert split_layer(module) == expected


def test_what_a_recipe_is_made_of():
    """The mean over all mixes, one without a sharer and the base's empty one included; the largest first."""
    some = recipe({"a.*": [[(0, 0.2), (1, -0.9)], []], "b.*": [[(0, 0.4)]]})
    assert list(mean_weights(some).items()) == [("s1", pytest.approx(-0.3)), ("s0", pytest.approx(0.2))]
    assert mean_weights(recipe({EVERY: [[(0, 0.5)]]})) == {"s0": 0.5, "s1": 0.0}
    assert mean_weights(recipe({EVERY: [[]]}, ())) == {}


def test_one_mix_for_every_layer():
    whole = recipe({EVERY: [[(0, 0.5), (1, -1.5)]]})
    assert unpack(whole, MODULES, where="r") == {module: [("s0", 0.5), ("s1", -1.5)] for module in MODULES}
    assert pack({EVERY: [("s0", 0.5)]}) == (("s0",), {EVERY: [[(0, 0.5)]]})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"model.layers.*.self_attn.q_proj": [[(0, 1.0)]]}, r"no weights for 'model\.layers\.0\.self_attn\.k_proj'"),
        ({}, "no weights for"),
        ({EVERY: []}, "no weights for"),
        ({EVERY: [[(0, 1.0)]], "lm_head": [[(0, 1.0)]]}, "has weights for 'lm_head', which the pool does not have"),
        ({EVERY: [[(0, 1.0)], [(1, 1.0)]]}, r"has weights for '\*', which the pool does not have"),
    ],
)
def test_layers_and_sharers_that_do_not_exist(weights, message):
    with pytest.raises(DataError, match=message):
        unpack(recipe(weights), MODULES, where="r")


@pytest.mark.parametrize("index", [2, -1])
def test_a_sharer_that_is_not_listed(tmp_path, index):
    path = tmp_path / "u.json"
    write_recipe(path, packed({module: [("s0", 1.0)] for module in MODULES}))
    edit_json(path, weights={EVERY: [[[index, 1.0]]]})
    with pytest.raises(DataError, match="uses a sharer that it does not list"):
        read_recipe(path, pool=POOL)


def test_a_number_that_can_be_no_layer(tmp_path):
    """A list as long as the number would fill the memory."""
    module = f"model.layers.{10**9}.q_proj"
    assert split_layer(module) == (module, 0)
    assert split_layer(f"model.layers.{'9' * 5000}.q_proj")[1] == 0
    assert split_layer("model.layers.4095.q_proj") == ("model.layers.*.q_proj", 4095)


def test_more_layers_than_the_pool():
    deep = packed({module: [("s0", 1.0)] for module in layers(4)})
    with pytest.raises(DataError, match="which the pool does not have"):
        unpack(deep, MODULES, where="r")
    with pytest.raises(DataError, match=r"no weights for 'model\.layers\.4\."):
        unpack(deep, layers(5), where="r")


def test_written_and_read(tmp_path):
    one = packed({module: [("s0", 1.0)] for module in MODULES})
    write_recipe(tmp_path / "u.json", one)
    assert read_recipe(tmp_path / "u.json", pool=POOL) == one
    assert json.loads((tmp_path / "u.json").read_text())["format"] == "perpcs.recipe/1"


def test_another_pool(tmp_path):
    write_recipe(tmp_path / "u.json", recipe({EVERY: [[(0, 1.0)]]}))
    with pytest.raises(DataError, match="the recipe was made with another pool") as caught:
        read_recipe(tmp_path / "u.json", pool="e" * 64)
    assert "dddddddddddd…" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": "sum"}, "Invalid enum value 'sum'"),
        ({"weights": {"*": [[[0, None]]]}}, "Expected `float`, got `null`"),
        ({"weights": {"*": [[[0.5, 1.0]]]}}, "Expected `int`, got `float`"),
        ({"format": "perpcs.recipe/2"}, "expected the format 'perpcs.recipe/1'"),
        ({"history": ["what the user wrote"]}, "unknown field `history`"),
    ],
)
def test_broken_recipes(tmp_path, changes, message):
    path = tmp_path / "u.json"
    write_recipe(path, recipe({EVERY: [[(0, 1.0)]]}))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError, match=message):
        read_recipe(path, pool=POOL)


def test_a_top_1_recipe_of_30_layers_is_small(tmp_path):
    """120 linear layers, each with a piece of one of 50 sharers."""
    named = {module: [(f"user{n * 7 % 50}", 1.0)] for n, module in enumerate(layers(30))}
    write_recipe(tmp_path / "u.json", packed(named))
    assert (tmp_path / "u.json").stat().st_size < 4000
