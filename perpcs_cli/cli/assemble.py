"""`perpcs assemble --user u42`: from a target user's history to a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from perpcs_cli.artifacts.pool import check_base, open_pool
from perpcs_cli.artifacts.users import newest
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import (
    BaseFlags,
    ExampleFlags,
    ForceOption,
    JsonOption,
    MergeOption,
    PoolOption,
    UserFlags,
    layer,
    takes,
)
from perpcs_cli.cli.recipes import finished, write
from perpcs_cli.errors import DataError, UsageError


@takes(BaseFlags, UserFlags, ExampleFlags)
def assemble(
    base: BaseFlags,
    who: UserFlags,
    asked: ExampleFlags,
    pool: PoolOption = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Pieces per linear layer. [default: perpcs.toml]")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="The best pieces whose softmax adds up to so much, instead of --top-k."),
    ] = None,
    sample: Annotated[
        bool | None, typer.Option("--sample/--no-sample", help="Draw pieces by their softmax, or take the best.")
    ] = None,
    sample_from: Annotated[
        int | None, typer.Option("--sample-from", min=1, help="Draw from so many of the best. [default: perpcs.toml]")
    ] = None,
    aggregate: Annotated[
        Literal["attention", "uniform"] | None,
        typer.Option("--aggregate", help="Weights by softmax of the scores, or equal. [default: perpcs.toml]"),
    ] = None,
    scoring: Annotated[
        Literal["published", "paper"] | None,
        typer.Option(
            "--scoring", help="Gate scores as in the published code or as in the paper. [default: perpcs.toml]"
        ),
    ] = None,
    merge: MergeOption = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Temperature of the softmax. [default: perpcs.toml]")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="History examples that share one decision. [default: perpcs.toml]"),
    ] = None,
    recent: Annotated[
        int | None,
        typer.Option("--recent", min=1, help="Read only the newest items of each history. [default: perpcs.toml]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory of the recipes. [default: recipes of the workspace]")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Assemble users' recipes from the pool.

    Writes recipes/USER.json for each user of splits/target.txt, or as chosen. The history runs through the model
    once; at each linear layer gate scores choose and weight pieces, which shape what the next layer sees. Users
    whose recipe is finished are skipped.
    """
    console = Console(json=json, quiet=base.quiet)
    flags: dict[str, Any] = {
        "top_k": top_k,
        "top_p": top_p,
        "sample": sample,
        "sample_from": sample_from,
        "aggregate": aggregate,
        "scoring": scoring,
        "merge": merge,
        "temperature": temperature,
        "batch_size": batch_size,
        "recent": recent,
    }
    context = base.open(assemble=layer(flags))
    settings = context.settings
    users = who.select(context, "target")
    shown = asked.examples()
    directory = out or context.recipes
    opened = open_pool(pool or context.pool)
    if settings.assemble.top_p is None and settings.assemble.top_k > len(opened.ids):
        raise UsageError(
            f"top-k is {settings.assemble.top_k} and the pool has {len(opened.ids)} sharers",
            where=opened.path,
            hint="Give a smaller --top-k.",
        )
    if not opened.manifest.gates:
        raise DataError(
            "the pool was built without gates",
            where=opened.path,
            hint="Train them with `perpcs gate`, and build it again with `perpcs pool build --force`.",
        )
    paths = {user.user_id: directory / f"{user.user_id}.json" for user in users}

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.methods.assembly import Assembler, make_groups
    from perpcs_cli.methods.assembly import assemble as run
    from perpcs_cli.model.pieces import Bank
    from perpcs_cli.tasks.examples import training_prompts
    from perpcs_cli.tasks.prompts import digest

    prompts = {
        user.user_id: training_prompts(context.task, newest(user, settings.assemble.recent), shown, seed=settings.seed)
        for user in users
    }
    model = open_base(context, console)
    check_base(opened, model.fingerprint, settings.model, model.shapes)
    changes = {"assemble": settings.assemble, "prompts": shown, "max_length": settings.max_length, **model.describe()}
    provenances = {
        name: context.provenance("assemble", changes, {"examples": digest(some)}, model.fingerprint)
        for name, some in prompts.items()
    }
    recipes = {name: finished(path, opened, provenances[name], force=force) for name, path in paths.items()}
    todo = [user for user in users if recipes[user.user_id] is None]
    if len(todo) < len(users):
        console.note(f"{len(users) - len(todo)} of {len(users)} users have their recipes already")
    groups = []
    for user in todo:
        rows = encode_all(model, prompts[user.user_id], context, console, who=f"user {user.user_id}")
        groups += make_groups(user.user_id, rows, settings.assemble.batch_size)
    assembler = Assembler(model, opened, Bank(model, opened.adapter), settings.assemble, settings.seed)
    with console.progress("assembling", len(todo)) as bar:

        def done(user_id: str, weights: dict[str, list[tuple[int, float]]]) -> None:
            named = {module: [(opened.ids[i], w) for i, w in mix] for module, mix in weights.items()}
            merge = settings.assemble.merge
            recipes[user_id] = write(paths[user_id], user_id, "per-pcs", merge, opened, named, provenances[user_id])
            bar.advance(1, user_id)

        run(assembler, groups, batch_tokens=settings.predict.batch_tokens, done=done)
    result: list[dict[str, Any]] = [
        {"user_id": name, "path": str(paths[name]), "sharers": recipe.sharers, "bytes": paths[name].stat().st_size}
        for name, recipe in recipes.items()
        if recipe
    ]
    lines = [f"{r['user_id']}\t{r['path']}\t{len(r['sharers'])} sharers\t{r['bytes']} bytes" for r in result]
    console.result(result, "\n".join(lines))
