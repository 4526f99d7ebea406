"""`perpcs retrieve`: PEFT retrieval and other ways to merge similar sharers' LoRAs without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.recipe import Method
from perpcs_cli.artifacts.workspace import Merge, Weighting
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import open_context
from perpcs_cli.cli.neighbours import SimilarityFlags
from perpcs_cli.cli.options import (
    ForceOption,
    JsonOption,
    MergeOption,
    QuietOption,
    TaskOption,
    UserFlags,
    WorkspaceOption,
    takes,
)
from perpcs_cli.cli.recipes import finished, write
from perpcs_cli.errors import UsageError

METHODS: dict[Weighting, Method] = {"softmax": "retrieve", "uniform": "uniform", "single": "single"}


@takes(SimilarityFlags, UserFlags)
def retrieve(
    where: SimilarityFlags,
    who: UserFlags,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Similar sharers. [default: prime.sharers of perpcs.toml]")
    ] = None,
    weights: Annotated[
        Weighting,
        typer.Option("--weights", help="Softmax of the similarities, equal weights, or the nearest sharer alone."),
    ] = "softmax",
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of the softmax.")] = 1.0,
    merge: MergeOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory of the recipes. [default: recipes-retrieve, -uniform or -single]"),
    ] = None,
    workspace: WorkspaceOption = Path(),
    task: TaskOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge the most similar sharers' LoRAs.

    PEFT retrieval: the whole LoRAs of the top-k sharers, weighted by the softmax of the cosines of their embeddings.
    Writes USER.json for each user of splits/target.txt, or as chosen, for `perpcs predict --recipes`. Recipes that
    exist are skipped.
    """
    console = Console(json=json, quiet=quiet)
    context = open_context(workspace, task=task)
    prime = context.settings.prime
    if temperature <= 0:
        raise UsageError(f"the temperature must be above 0, and is {temperature}", where="--temperature")
    users = who.select(context, "target")
    near = where.open(context)
    method = METHODS[weights]
    rule: Merge = merge or prime.merge
    directory = out or context.root / f"recipes-{method}"

    from perpcs_cli.methods.similarity import weigh
    from perpcs_cli.methods.space import make_space

    count = 1 if weights == "single" else top_k or prime.sharers
    made: list[dict[str, Any]] = []
    for user in users:
        mix = weigh(near.nearest(user, count), weights, temperature)
        provenance = context.provenance(
            "retrieve",
            {"weights": weights, "top_k": count, "temperature": temperature, "merge": rule, "mix": dict(mix)},
            {"user": store.digest_value(user), "encoder": near.embeddings.card.provenance.inputs["encoder"]},
            near.pool.manifest.base,
        )
        path = directory / f"{user.user_id}.json"
        if finished(path, near.pool, provenance, force=force):
            continue
        space = make_space(near.pool, [sharer for sharer, _ in mix])
        recipe = write(
            path, user.user_id, method, rule, near.pool, space.named([weight for _, weight in mix]), provenance
        )
        made.append(
            {"user_id": user.user_id, "path": str(path), "sharers": recipe.sharers, "bytes": path.stat().st_size}
        )
    if len(made) < len(users):
        console.note(f"{len(users) - len(made)} of {len(users)} recipes exist already")
    lines = [f"{m['user_id']}\t{m['path']}\t{len(m['sharers'])} sharers\t{m['bytes']} bytes" for m in made]
    if lines or json:
        console.result(made, "\n".join(lines))
