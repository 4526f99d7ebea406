"""`perpcs prime --alpha 1.0`: search the weights of similar sharers' LoRAs for a user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.personalize.recipe_rows import made_of
from perpcs_cli.cli.rows import show_outcomes

if TYPE_CHECKING:
    from perpcs_cli.steps.job import Outcome
    from perpcs_cli.steps.personalize.search_result import Found


@command
def prime(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    where: flags.SimilarityFlags,
    search: setting_flags.PrimeFlags,
    asked: flags.PromptFlags,
    pareto: Annotated[
        Path | None,
        flags.written("--pareto", help="Also write the candidates that none beats in both scores.", kind="file"),
    ] = None,
    traces: flags.TracesOption = None,
    out: Annotated[Path | None, flags.out_option("recipes-prime of the workspace", "directory or file")] = None,
) -> None:
    """Search the weights of similar sharers' LoRAs.

    PriME: an evolution strategy maximizes the task's metrics on the user's history, minus alpha times the similarity
    to the sharers' own predictions; users are those of splits/target.txt by default. Writes recipes-prime/USER.json,
    or recipes-prime-ALPHA/USER.json for each of several alphas, and traces/USER.jsonl, from which a run that was
    stopped goes on. Where no candidate beats the base model, the recipe is the base model. --out NAME.jsonl packs all
    recipes into one file.
    """
    from perpcs_cli.steps.personalize.prime import prime as step

    outcomes = step(
        base.open(search),
        who.who(),
        shown=asked.shown(),
        pool=where.pool,
        embeddings=where.embeddings,
        pareto=pareto,
        traces=traces,
        out=out,
        **write.mode(console),
    )
    show_outcomes(console, outcomes, _columns)


def _columns(outcome: Outcome[Found]) -> list[object]:
    found = outcome.value
    if found is None:
        return []
    named = {
        "reward": found.reward,
        "base's": found.base_reward,
        "utility": found.utility,
        "similarity": found.similarity,
    }
    scores = [f"{name} {'-' if score is None else f'{score:.4f}'}" for name, score in named.items()]
    return [f"alpha {found.alpha:g}", *scores, made_of(found.weights)]
