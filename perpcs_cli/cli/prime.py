"""`perpcs prime --alpha 1.0`: search the weights of similar sharers' LoRAs for a user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.pool import check_base
from perpcs_cli.artifacts.users import newest
from perpcs_cli.artifacts.workspace import Granularity, Optimizer
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.neighbours import SimilarityFlags
from perpcs_cli.cli.options import BaseFlags, ForceOption, JsonOption, MergeOption, PromptFlags, UserFlags, layer, takes
from perpcs_cli.cli.searching import Found, Searches, Task
from perpcs_cli.errors import UsageError


@dataclass(frozen=True)
class SearchFlags:
    """The flags over the section `prime` of perpcs.toml."""

    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            metavar="<numbers>",
            help="Weight of the similarity, or several, as 0,0.2,1. [default: perpcs.toml]",
        ),
    ] = None
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Candidates of each search. [default: perpcs.toml]")
    ] = None
    sharers: Annotated[
        int | None, typer.Option("--sharers", min=1, help="Most similar sharers to merge. [default: perpcs.toml]")
    ] = None
    granularity: Annotated[
        Granularity | None,
        typer.Option("--granularity", help="A weight per LoRA, or per layer of each. [default: perpcs.toml]"),
    ] = None
    bounds: Annotated[
        str | None,
        typer.Option("--bounds", metavar="<low,high>", help="Range of the weights; B is -B,B. [default: perpcs.toml]"),
    ] = None
    sigma: Annotated[
        float | None, typer.Option("--sigma", help="Spread of the first generation around 0. [default: perpcs.toml]")
    ] = None
    popsize: Annotated[
        int | None, typer.Option("--popsize", min=2, help="Candidates of a generation. [default: perpcs.toml]")
    ] = None
    data_fraction: Annotated[
        float | None, typer.Option("--data-fraction", help="Share of the history to score on. [default: perpcs.toml]")
    ] = None
    recent: Annotated[
        int | None,
        typer.Option("--recent", min=1, help="Only the newest items of each history. [default: perpcs.toml]"),
    ] = None
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="One of the task's metrics, or their sum. [default: perpcs.toml, else sum]"),
    ] = None
    optimizer: Annotated[
        Optimizer | None,
        typer.Option("--optimizer", help="ngiohtuned and tbpsa need nevergrad. [default: perpcs.toml, else cma]"),
    ] = None
    merge: MergeOption = None

    def given(self) -> dict[str, object]:
        """The flags as a layer over the section. Raises UsageError for what is no number."""
        found = layer(vars(self))
        if self.alpha is not None:
            found["alpha"] = _numbers(self.alpha, "--alpha")
        if self.bounds is not None:
            ends = _numbers(self.bounds, "--bounds")
            found["bounds"] = [-ends[0], ends[0]] if len(ends) == 1 else ends
        return found


@takes(BaseFlags, UserFlags, SimilarityFlags, SearchFlags, PromptFlags)
def prime(
    base: BaseFlags,
    who: UserFlags,
    where: SimilarityFlags,
    flags: SearchFlags,
    asked: PromptFlags,
    pareto: Annotated[
        Path | None, typer.Option("--pareto", help="Also write the candidates that none beats in both scores.")
    ] = None,
    traces: Annotated[
        Path | None, typer.Option("--traces", help="Directory of the traces. [default: traces of the workspace]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory of the recipes. [default: recipes-prime of the workspace]"),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Search the weights of similar sharers' LoRAs.

    PriME: an evolution strategy maximizes the task's metrics on the user's history, minus alpha times the similarity
    to the sharers' own predictions; users are those of splits/target.txt by default. Writes recipes-prime/USER.json,
    or recipes-prime-ALPHA/USER.json for each of several alphas, and traces/USER.jsonl, from which a run that was
    stopped goes on. Where no candidate beats the base model, the recipe is the base model.
    """
    console = Console(json=json, quiet=base.quiet)
    context = base.open(prime=flags.given())
    settings = context.settings
    users = who.select(context, "target")
    shown = asked.shown()
    if pareto is not None:
        store.refuse_existing(pareto, force=force)
    near = where.open(context)

    from perpcs_cli.cli.running import open_base
    from perpcs_cli.methods.objective import check_metric
    from perpcs_cli.methods.prime import sample_items
    from perpcs_cli.methods.search import make_optimizer
    from perpcs_cli.methods.space import make_space
    from perpcs_cli.tasks.examples import history_prompts

    check_metric(context.task, settings.prime.metric)
    # A missing package is found here, before the model is loaded.
    make_optimizer(settings.prime, settings.prime.sharers, 1)
    tasks = []
    for user in users:
        prompts = history_prompts(context.task, newest(user, settings.prime.recent), shown, seed=settings.seed)
        items = sample_items(prompts, settings.prime.data_fraction, settings.seed, user.user_id)
        sharers = [one.user_id for one in near.nearest(user, settings.prime.sharers)]
        tasks.append(Task(user, items, make_space(near.pool, sharers, settings.prime.granularity)))
    model = open_base(context, console)
    check_base(near.pool, model.fingerprint, settings.model, model.shapes)
    directory = out or context.root / "recipes-prime"
    searches = Searches(context, near.pool, model, console, shown, traces or context.traces, directory, force)
    results = [found for task in tasks for found in searches.run(task)]
    if pareto is not None:
        searches.write_pareto(pareto, users)
    if results or json:
        console.result(results, "\n".join(_line(found) for found in results))


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"not numbers separated by commas: {text!r}", where=flag) from None


def _line(found: Found) -> str:
    kind = "base" if found.base else "merged"
    scores = (found.reward, found.base_reward, found.utility, found.similarity)
    return "\t".join([found.user_id, f"{found.alpha:g}", found.path, kind, *(f"{score:.4f}" for score in scores)])
