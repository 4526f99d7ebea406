"""What a file says of each linear layer, as a map: the model's layers below each other, projections side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from perpcs_cli.artifacts import recipe
from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.io.tensors import TensorFile
from perpcs_cli.artifacts.pools.norms import norms
from perpcs_cli.artifacts.recipe import EVERY, Recipe

T = TypeVar("T")
Mix = dict[str, float]
"""Sharer → weight, the largest first."""


class LayerMap(msgspec.Struct, frozen=True):
    """`rows[layer][place]` belongs to the projection `columns[place]`; None where the file says nothing of it."""

    columns: list[str]
    rows: list[list[Mix | float | None]]


def mix_map(found: Recipe) -> LayerMap:
    """Which sharers' pieces a recipe runs where; one row and column where it is the same in every linear layer."""
    named = {
        pattern: [
            dict(sorted(((found.sharers[index], weight) for index, weight in mix), key=lambda one: -abs(one[1])))
            for mix in mixes
        ]
        for pattern, mixes in found.weights.items()
    }
    depth = max(map(len, named.values()), default=0)
    rows: list[list[Mix | float | None]] = [
        [mixes[layer] if layer < len(mixes) else None for mixes in named.values()] for layer in range(depth)
    ]
    return LayerMap(columns=["every linear layer" if one == EVERY else short_name(one) for one in named], rows=rows)


def norm_map(adapter: Adapter) -> LayerMap:
    """The Frobenius norm of what each piece of an adapter adds to its linear layer's weights."""
    return _map(norms(adapter, adapter.modules))


def gate_map(file: TensorFile) -> LayerMap:
    """The length of each gate."""
    return _map({key: float(file.read(key).double().norm()) for key in file.keys})


def _map(values: Mapping[str, float]) -> LayerMap:
    places = {module: recipe.split_layer(module) for module in values}
    patterns = list(dict.fromkeys(pattern for pattern, _ in places.values()))
    rows: list[list[Mix | float | None]] = [
        [None] * len(patterns) for _ in range(max((layer for _, layer in places.values()), default=-1) + 1)
    ]
    for module, value in values.items():
        pattern, layer = places[module]
        rows[layer][patterns.index(pattern)] = value
    return LayerMap(columns=[short_name(one) for one in patterns], rows=rows)


def short_name(pattern: str) -> str:
    """`q` of `model.layers.*.self_attn.q_proj`."""
    return Path(pattern.replace(".", "/")).name.removesuffix("_proj")
