"""`perpcs retrieve`: PEFT retrieval and other ways to merge similar sharers' LoRAs without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.personalize.recipe_rows import show_recipes


@command
def retrieve(
    console: Console,
    write: flags.WriteFlags,
    here: flags.TaskFlags,
    where: flags.SimilarityFlags,
    who: flags.ShardFlags,
    similar: flags.SimilarOption = None,
    weights: flags.WeightsOption = "softmax",
    temperature: flags.TemperatureOption = 1.0,
    merge: flags.MergeOption = None,
    out: Annotated[Path | None, flags.out_option("recipes-retrieve, -uniform or -single", "directory or file")] = None,
) -> None:
    """Merge the most similar sharers' LoRAs.

    PEFT retrieval: the whole LoRAs of the most similar sharers, weighted by the softmax of the cosines of their
    embeddings. Writes USER.json for each user of splits/target.txt, or as chosen, for `perpcs predict --recipes`.
    Recipes that are finished are skipped. --out NAME.jsonl packs all recipes into one file.
    """
    from perpcs_cli.steps.personalize.retrieve import retrieve as step

    outcomes = step(
        here.open(),
        who.who(),
        weights=weights,
        similar=similar,
        temperature=temperature,
        merge=merge,
        pool=where.pool,
        embeddings=where.embeddings,
        out=out,
        **write.mode(console),
    )
    show_recipes(console, outcomes)
