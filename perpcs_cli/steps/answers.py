"""Letting the model answer prompts, each batch of answers into a journal as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io.journal import Row
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.report import Bar

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.model.engine.sampling import Sampling


def answer(
    model: StepModel,
    recipes: RecipeRouter,
    rows: Sequence[tuple[Encoded, int]],
    keep: Callable[[list[Row]], object],
    row_of: Callable[[int, str], Row],
    bar: Bar,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    known: Collection[int] = (),
    merge: Merge = "product",
) -> None:
    """Answer `rows`, prompts with the numbers of their recipes; `row_of(place, text)` is what `keep` gets.

    Batches are those of the section `predict` of the settings; answers are greedy, or drawn as `sampling` says.
    `known` are the places of the rows that are kept already: batches are those of all rows, so that what is left
    becomes what it would have been.
    """
    from perpcs_cli.model.engine.decode import generate

    settings = model.settings.predict
    bar.advance(len(known))

    def write(places: list[int], tokens: list[list[int]]) -> None:
        new = [index for index, place in enumerate(places) if place not in known]
        if not new:
            return
        texts = model.base.tokenizer.batch_decode([tokens[index] for index in new], skip_special_tokens=True)
        keep([row_of(places[index], text.strip()) for index, text in zip(new, texts, strict=True)])
        bar.advance(len(new))

    generate(
        model.base,
        recipes,
        rows,
        max_new_tokens=max_new_tokens,
        batch_tokens=settings.batch_tokens,
        batch_rows=settings.batch_rows,
        merge=merge,
        sampling=sampling,
        known=known,
        done=write,
    )
