"""`perpcs retrieve`: PEFT retrieval and other ways to merge similar sharers' LoRAs without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.flags import (
    DryRunOption,
    ForceOption,
    MergeOption,
    SimilarityFlags,
    SimilarOption,
    TaskFlags,
    TemperatureOption,
    UserFlags,
    WeightsOption,
    out_option,
)
from perpcs_cli.cli.personalize.recipe_rows import recipe_columns
from perpcs_cli.cli.rows import show_outcomes


@command
def retrieve(
    console: Console,
    flags: TaskFlags,
    where: SimilarityFlags,
    who: UserFlags,
    similar: SimilarOption = None,
    weights: WeightsOption = "softmax",
    temperature: TemperatureOption = 1.0,
    merge: MergeOption = None,
    out: Annotated[Path | None, out_option("recipes-retrieve, -uniform or -single")] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Merge the most similar sharers' LoRAs.

    PEFT retrieval: the whole LoRAs of the most similar sharers, weighted by the softmax of the cosines of their
    embeddings. Writes USER.json for each user of splits/target.txt, or as chosen, for `perpcs predict --recipes`.
    Recipes that are finished are skipped.
    """
    from perpcs_cli.steps.personalize.retrieve import retrieve as step

    outcomes = step(
        flags.open(),
        who.who(),
        weights=weights,
        similar=similar,
        temperature=temperature,
        merge=merge,
        pool=where.pool,
        embeddings=where.embeddings,
        out=out,
        force=force,
        dry_run=dry_run,
        report=console,
    )
    show_outcomes(console, outcomes, recipe_columns)
