"""What weight vectors mean, as recipes and to the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import write_pool

from perpcs_cli.artifacts.recipe import pack
from perpcs_cli.methods.prime.weight_space import Space, make_space
from perpcs_cli.model.loading.base import Base

MODULES = ("model.layers.0.q", "model.layers.0.k", "model.layers.1.q")
ALL = frozenset(MODULES)


def test_a_weight_per_lora() -> None:
    space = Space(("a", "b"), (ALL, ALL), MODULES)
    assert (space.size, space.base, space.single(1)) == (2, (0.0, 0.0), (0.0, 1.0))
    assert space.mixes((0.5, 0.0)) == {module: [(0, 0.5)] for module in MODULES}
    assert space.named((0.5, -0.25)) == {"*": [("a", 0.5), ("b", -0.25)]}
    assert pack(space.named(space.base)) == ((), {"*": [[]]})


def test_a_weight_per_layer_and_lora() -> None:
    space = Space(("a", "b"), (ALL, ALL), MODULES, "layer")
    assert (space.size, space.single(1)) == (4, (0.0, 1.0, 0.0, 1.0))
    assert space.named((0.1, 0.2, 0.3, 0.0)) == {
        "model.layers.0.q": [("a", 0.1), ("b", 0.2)],
        "model.layers.0.k": [("a", 0.1), ("b", 0.2)],
        "model.layers.1.q": [("a", 0.3)],
    }
    assert space.named(space.single(1)) == {"*": [("b", 1.0)]}


def test_what_a_sharer_withholds_is_never_used() -> None:
    space = Space(("a", "b"), (ALL, frozenset(MODULES[1:])), MODULES)
    assert space.named((1.0, 2.0)) == {
        MODULES[0]: [("a", 1.0)],
        MODULES[1]: [("a", 1.0), ("b", 2.0)],
        MODULES[2]: [("a", 1.0), ("b", 2.0)],
    }


def test_vectors_are_rounded_as_recipes_are() -> None:
    space = Space(("a", "b"), (ALL, ALL), MODULES)
    rounded = space.rounded([0.123456, -0.00001])
    assert rounded == (0.1235, 0.0)
    assert str(rounded[1]) == "0.0"
    _, weights = pack(space.named(rounded))
    assert weights == {"*": [[(0, 0.1235)]]}


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_from_a_pool(tiny: Base, tmp_path: Path, ratio: float) -> None:
    pool = write_pool(tmp_path, tiny, share_ratio=ratio)
    space = make_space(pool, ["s2", "s0"], "layer")
    assert (space.sharers, space.size) == (("s2", "s0"), 2 * 2)
    assert list(map(set, space.shared)) == [pool.shares(2), pool.shares(0)]
    assert len(space.shared[0]) == ratio * len(tiny.targets)
