"""`perpcs assemble --user u42`: from a target user's history to a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.pool import check_base, open_pool
from perpcs_cli.artifacts.recipe import Recipe, pack, write_recipe
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import BaseFlags, ForceOption, JsonOption, OutOption, UserFlags, takes
from perpcs_cli.cli.pool import PoolOption
from perpcs_cli.cli.train_sharer import PlainOption, newest
from perpcs_cli.errors import UsageError


@takes(BaseFlags, UserFlags)
def assemble(
    base: BaseFlags,
    who: UserFlags,
    pool: PoolOption = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Pieces per linear layer.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Instead of top-k: the best pieces whose softmax adds up to P.")
    ] = None,
    sample: Annotated[
        bool | None, typer.Option("--sample/--no-sample", help="Draw the top-k by their softmax instead of the best.")
    ] = None,
    sample_from: Annotated[
        int | None, typer.Option("--sample-from", min=1, help="Draw from so many of the best. [default: 10]")
    ] = None,
    aggregate: Annotated[
        Literal["attention", "uniform"] | None,
        typer.Option("--aggregate", help="Weights by softmax of the scores, or equal. [default: attention]"),
    ] = None,
    scoring: Annotated[
        Literal["published", "paper"] | None,
        typer.Option("--scoring", help="Gate scores as in the published code or as in the paper. [default: published]"),
    ] = None,
    merge: Annotated[
        Literal["product", "factor"] | None,
        typer.Option("--merge", help="Sum w·BA (the paper), or (Sum w·B)(Sum w·A) (the code). [default: product]"),
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the softmax. [default: 1]")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="History examples that share one decision.")
    ] = None,
    recent: Annotated[
        int | None, typer.Option("--recent", min=1, help="Newest history items read. [default: 50]")
    ] = None,
    plain: PlainOption = False,
    out: OutOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Assemble a recipe for each user (default: splits/target.txt) from the pool, written to recipes/U.json.

    The history runs through the model once; at each linear layer gate scores choose and weight pieces, which shape
    what the next layer sees. Users whose recipe exists are skipped unless --force is given.
    """
    console = Console(json=json, quiet=base.quiet)
    flags: dict[str, Any] = {
        "top_k": top_k,
        "top_p": top_p,
        "sample": sample,
        "sample_from": sample_from,
        "aggregate": aggregate,
    }
    flags |= {
        "scoring": scoring,
        "merge": merge,
        "temperature": temperature,
        "batch_size": batch_size,
        "recent": recent,
    }
    context = base.open(assemble=flags)
    settings = context.settings
    users = who.select(context, "target")
    directory = out or context.recipes
    opened = open_pool(pool or context.pool)
    if settings.assemble.top_k > len(opened.ids):
        raise UsageError(
            f"top-k is {settings.assemble.top_k} and the pool has {len(opened.ids)} sharers",
            where=opened.path,
            hint="Give a smaller --top-k.",
        )
    paths = {user.user_id: directory / f"{user.user_id}.json" for user in users}
    todo = [user for user in users if force or not paths[user.user_id].exists()]
    if len(todo) < len(users):
        console.note(f"{len(users) - len(todo)} of {len(users)} recipes exist already (--force makes them again)")
    if not todo:
        return

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.methods.assembly import Assembler, make_groups
    from perpcs_cli.methods.assembly import assemble as run
    from perpcs_cli.model.pieces import Bank
    from perpcs_cli.tasks.examples import training_prompts

    prompts = {
        user.user_id: training_prompts(context.task, newest(user, settings.assemble.recent), plain=plain)
        for user in todo
    }
    model = open_base(context, console)
    check_base(opened, model.fingerprint, settings.model)
    groups = []
    for user in todo:
        rows = encode_all(model, prompts[user.user_id], context, console, who=f"user {user.user_id}")
        groups += make_groups(user.user_id, rows, settings.assemble.batch_size)
    inputs = {user.user_id: store.digest_value(user) for user in todo}
    changes = {"assemble": settings.assemble, "plain": plain, "max_length": settings.max_length, **model.describe()}
    assembler = Assembler(model, opened, Bank(model, opened.adapter), settings.assemble, settings.seed)
    written: list[dict[str, Any]] = []
    with console.progress("assembling", len(todo)) as bar:

        def done(user_id: str, weights: dict[str, list[tuple[int, float]]]) -> None:
            named = {module: [(opened.ids[i], w) for i, w in mix] for module, mix in weights.items()}
            sharers, packed = pack(named)
            recipe = Recipe(
                user_id=user_id,
                method="per-pcs",
                merge=settings.assemble.merge,
                pool=opened.digest,
                sharers=sharers,
                weights=packed,
                provenance=context.provenance("assemble", changes, {"user": inputs[user_id]}, model.fingerprint),
            )
            write_recipe(paths[user_id], recipe)
            size = paths[user_id].stat().st_size
            written.append({"user_id": user_id, "path": str(paths[user_id]), "sharers": sharers, "bytes": size})
            bar.advance(1, user_id)

        run(assembler, groups, batch_tokens=settings.predict.batch_tokens, done=done)
    lines = [f"{w['user_id']}\t{w['path']}\t{len(w['sharers'])} sharers\t{w['bytes']} bytes" for w in written]
    console.result(written, "\n".join(lines))
