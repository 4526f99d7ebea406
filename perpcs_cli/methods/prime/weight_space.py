"""What a vector of weights means: from numbers to a recipe over whole LoRAs, or over the LoRAs' layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.recipe import DIGITS, EVERY, split_layer
from perpcs_cli.artifacts.settings import Granularity

Vector = tuple[float, ...]
"""Weights, [S] for whole LoRAs or [L · S] for layers, rounded as a recipe rounds."""


@dataclass(frozen=True)
class Space:
    """The weights of S sharers' LoRAs: one per sharer, or one per layer and sharer (layer by layer)."""

    sharers: tuple[str, ...]
    shared: tuple[frozenset[str], ...]
    """The linear layers whose pieces each sharer gives. What is withheld is never used."""
    modules: tuple[str, ...]
    granularity: Granularity = "lora"

    @cached_property
    def layers(self) -> list[int]:
        """The layer numbers that have weights of their own; one where whole LoRAs are weighed."""
        return sorted({split_layer(module)[1] for module in self.modules}) if self.granularity == "layer" else [0]

    @property
    def size(self) -> int:
        """The number of weights."""
        return len(self.layers) * len(self.sharers)

    @property
    def base(self) -> Vector:
        """The base model: all zeros."""
        return (0.0,) * self.size

    def single(self, sharer: int) -> Vector:
        """One sharer's whole LoRA, as it is."""
        return tuple(float(index % len(self.sharers) == sharer) for index in range(self.size))

    def rounded(self, numbers: Iterable[float]) -> Vector:
        """The vector that a recipe stores and applies: rounded, without negative zeros."""
        return tuple(round(float(number), DIGITS) + 0.0 for number in numbers)

    def mixes(self, vector: Sequence[float]) -> dict[str, list[tuple[int, float]]]:
        """{linear layer: [(index of a sharer, weight)]}, as the engine runs it."""
        count = len(self.sharers)
        rows = {layer: vector[at * count : (at + 1) * count] for at, layer in enumerate(self.layers)}
        return {
            module: [
                (index, weight)
                for index, weight in enumerate(rows[split_layer(module)[1] if self.granularity == "layer" else 0])
                if weight and module in self.shared[index]
            ]
            for module in self.modules
        }

    def named(self, vector: Sequence[float]) -> dict[str, list[tuple[str, float]]]:
        """The same by the sharers' ids, as `recipe.pack` takes it; `*` where all linear layers have one mix."""
        mixes = list(self.mixes(vector).items())
        if all(mix == mixes[0][1] for _, mix in mixes):
            mixes = [(EVERY, mixes[0][1])]
        return {module: [(self.sharers[index], weight) for index, weight in mix] for module, mix in mixes}


def make_space(pool: OpenPool, sharers: Sequence[str], granularity: Granularity = "lora") -> Space:
    """The space of some of a pool's sharers."""
    shared = tuple(frozenset(pool.shares(pool.places[sharer])) for sharer in sharers)
    return Space(tuple(sharers), shared, tuple(pool.modules), granularity)
