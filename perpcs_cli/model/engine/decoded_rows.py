"""The rows that are decoded: what each has been answered so far, and which of them share buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.drafts import NO_DRAFT, Draft, Known
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.sampling import Sampling


@dataclass(frozen=True)
class Techniques:
    """What makes decoding fast; none of it changes the output. Each can be switched off, to see what it is worth."""

    drafts: bool = True
    """Known answers are verified instead of produced token by token."""
    prefix: bool = True
    """The tokens that prompts of a recipe begin with are computed once."""
    population: bool = True
    """Rows of different recipes share passes."""


ALL = Techniques()


@dataclass(eq=False)
class Row:
    """One row on its way: a prompt, its recipe, and what it has been answered so far."""

    prompt: list[int]
    recipe: int
    stream: int = 0
    """What the noise of its answer depends on, where answers are drawn."""
    asked: list[int] = field(default_factory=list)
    """The indices of the caller's rows that it answers."""
    output: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens of prompt and output whose keys and values are there."""
    draft: Draft = NO_DRAFT
    known: Known | None = None
    """What drafts are made from."""
    ended: bool = False

    @property
    def new(self) -> list[int]:
        """The tokens of the next pass: what is there and not computed, then the draft."""
        outside = self.computed - len(self.prompt)
        there = self.output[outside:] if outside >= 0 else self.prompt[self.computed :] + self.output
        return there + self.draft.tokens


def unique(recipes: RecipeRouter, rows: Sequence[tuple[Encoded, int]], sampling: Sampling | None) -> list[Row]:
    """One row for each prompt, recipe and noise, recipe by recipe; recipes of equal weights are one."""
    first: dict[bytes, int] = {}
    numbers = dict.fromkeys(recipe for _, recipe in rows)
    same = {number: first.setdefault(recipes.key(number), number) for number in numbers}
    found: dict[int, dict[tuple[int, ...], Row]] = {number: {} for number in first.values()}
    for index, (row, recipe) in enumerate(rows):
        number, stream = same[recipe], sampling.stream(row) if sampling else 0
        found[number].setdefault((stream, *row.prompt), Row(row.prompt, number, stream)).asked.append(index)
    return [row for some in found.values() for row in some.values()]


def parts(rows: list[Row], new: int, tokens: int, most: int, techniques: Techniques) -> Iterator[list[Row]]:
    """Rows that share buffers, the longest first, so that memory runs out early or never.

    None needs less than half the longest's place, unless all that are left fit in at once.
    """
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(0 if techniques.population else row.recipe, []).append(row)
    for group in groups.values():
        left = group
        while left:
            longest = max(len(row.prompt) for row in left) + new
            if len(left) > min(most, tokens // longest):
                part = [row for row in left if 2 * (len(row.prompt) + new) > longest]
                left = [row for row in left if 2 * (len(row.prompt) + new) <= longest]
            else:
                part, left = left, []
            yield part
