"""`perpcs predict`: answer the users' queries with the base, recipes, a sharer or any PEFT adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.pool import check_base, open_pool
from perpcs_cli.artifacts.predictions import (
    Prediction,
    PredictionsInfo,
    info_path,
    read_info,
    read_predictions,
    write_info,
)
from perpcs_cli.artifacts.provenance import check_same
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.lineup import adapter_lineup, base_lineup, recipe_lineup, recipes_name
from perpcs_cli.cli.options import BaseFlags, ForceOption, JsonOption, PoolOption, PromptFlags, UserFlags, layer, takes
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from perpcs_cli.model.batching import Encoded


@takes(BaseFlags, UserFlags, PromptFlags)
def predict(
    base: BaseFlags,
    who: UserFlags,
    asked: PromptFlags,
    plain_base: Annotated[bool, typer.Option("--base", help="The base model (with its task adapter).")] = False,
    recipes: Annotated[
        Path | None,
        typer.Option("--recipes", help="Each user's recipe from this directory, or one recipe file for all."),
    ] = None,
    sharer: Annotated[str | None, typer.Option("--sharer", help="One sharer of sharers/, for all users.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="One PEFT LoRA directory, for all users.")] = None,
    own: Annotated[
        Path | None, typer.Option("--own", help="Each user's own adapter from this directory (OPPU): DIR/USER.")
    ] = None,
    pool: PoolOption = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens. [default: perpcs.toml]")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens per batch. [default: perpcs.toml]")
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option("--batch-rows", min=1, help="Queries per batch. [default: perpcs.toml]")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name of the model, for the file and in tables. [default: base, or what is given]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file. [default: predictions/NAME.jsonl of the workspace]"),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Answer users' queries with one model.

    The model is one of --base, --recipes (default: recipes/), --sharer, --adapter and --own; the users are those of
    splits/target.txt by default. Answers are greedy, and go to predictions/NAME.jsonl. Queries of many users and
    recipes share batches. A run that was stopped goes on where it was.
    """
    console = Console(json=json, quiet=base.quiet)
    sizes = {"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens, "batch_rows": batch_rows}
    context = base.open(predict=layer(sizes))
    settings = context.settings
    given = {"--base": plain_base or None, "--recipes": recipes, "--sharer": sharer, "--adapter": adapter, "--own": own}
    chosen = list(layer(given))
    if len(chosen) > 1:
        raise UsageError("choose one model", where=" and ".join(chosen))
    users = [user for user in who.select(context, "target") if user.queries]
    if not users:
        raise DataError("the users have no queries to answer", where=who.users_file or context.users)
    if plain_base:
        kind, lineup = "base", base_lineup(users)
    elif chosen and recipes is None:
        shared = adapter if sharer is None else context.sharers / store.check_id(sharer, "sharer", where="--sharer")
        kind, lineup = (shared or own or Path()).resolve().name, adapter_lineup(shared, own, users)
    else:
        place = recipes or context.recipes
        kind, lineup = recipes_name(place), recipe_lineup(place, open_pool(pool or context.pool), users)
    path = out or context.predictions / f"{store.check_id(name or kind, 'name', where='--name')}.jsonl"

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.model.decode import generate
    from perpcs_cli.model.pieces import Bank, Recipes
    from perpcs_cli.tasks.examples import query_prompts
    from perpcs_cli.tasks.prompts import digest

    shown = asked.shown()
    # A known answer must not shape its own prompt: neither how much is cut nor the tokens where they meet.
    prompts = {
        user.user_id: [
            replace(prompt, answer=None) for prompt in query_prompts(context.task, user, shown, seed=settings.seed)
        ]
        for user in users
    }
    model = open_base(context, console)
    if lineup.pool:
        check_base(lineup.pool, model.fingerprint, settings.model, model.shapes)
    for one in lineup.adapters:
        one.check_fits(model.fingerprint, model.shapes)
    info = PredictionsInfo(
        task=context.task.name,
        model_label=name or path.stem,
        count=sum(len(user.queries) for user in users),
        provenance=context.provenance(
            "predict",
            {
                "predict": settings.predict,
                "prompts": shown,
                "max_length": settings.max_length,
                "merge": lineup.merge,
                **model.describe(),
            },
            {"prompts": digest(prompt for some in prompts.values() for prompt in some), **lineup.digests},
            model.fingerprint,
        ),
    )
    if not force and _finished(path, info):
        console.note("all queries are answered already")
        console.result(*_result(path, info))
        return
    done = _resume(path, info, force=force)
    rows: list[tuple[Encoded, int]] = []
    owners: list[str] = []
    for user in users:
        wanted = [prompt for prompt in prompts[user.user_id] if (user.user_id, prompt.key) not in done]
        reserve = settings.predict.max_new_tokens
        encoded = encode_all(model, wanted, context, console, who=f"user {user.user_id}", reserve=reserve)
        rows += [(row, lineup.users[user.user_id]) for row in encoded]
        owners += [user.user_id] * len(encoded)
    if done:
        console.note(f"{len(done)} of {info.count} queries are answered already")
    journal = store.Journal(_partial(path))
    with console.progress("predicting", len(rows)) as bar:

        def write(indices: list[int], tokens: list[list[int]]) -> None:
            texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            journal.append(
                Prediction(user_id=owners[i], id=rows[i][0].key, output=text.strip())
                for i, text in zip(indices, texts, strict=True)
            )
            bar.advance(len(indices))

        generate(
            model,
            Recipes(Bank(model, lambda index: lineup.adapters[index]), lineup.recipes),
            rows,
            max_new_tokens=settings.predict.max_new_tokens,
            batch_tokens=settings.predict.batch_tokens,
            batch_rows=settings.predict.batch_rows,
            merge=lineup.merge,
            done=write,
        )
    order = {(user.user_id, query.id): n for n, (user, query) in enumerate((u, q) for u in users for q in u.queries)}
    answers = sorted(read_predictions(_partial(path)), key=lambda row: order[row.user_id, row.id])
    store.write_jsonl(path, answers)
    write_info(path, info)
    _partial(path).unlink()
    info_path(_partial(path)).unlink()
    console.result(*_result(path, info))


def _result(path: Path, info: PredictionsInfo) -> tuple[dict[str, object], str]:
    return {"path": str(path), "count": info.count}, f"{path}\t{info.count} predictions"


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial.jsonl")


def _finished(path: Path, info: PredictionsInfo) -> bool:
    """Whether `path` holds these very predictions. Raises where it holds others, or something else."""
    if not path.exists():
        return False
    if not path.is_file() or not info_path(path).exists():
        if path.is_file() and info_path(_partial(path)).exists():
            # Stopped between the answers and their sidecar: the last step is done again.
            return False
        raise UsageError("already exists", where=path, hint="Use --force to replace it, or --name for another.")
    before = read_info(path, read_predictions(path))
    if before:
        check_same(before.provenance, info.provenance, where=path)
    return True


def _resume(path: Path, info: PredictionsInfo, *, force: bool) -> set[tuple[str, str]]:
    """The (user, query) pairs that a stopped run has answered. Raises where it had other settings."""
    partial = _partial(path)
    store.check_writable(path)
    if force or not info_path(partial).exists():
        partial.unlink(missing_ok=True)
    if partial.exists():
        before = store.read_json(info_path(partial), PredictionsInfo)
        check_same(before.provenance, info.provenance, where=partial)
        store.Journal(partial)
        rows = read_predictions(partial) if partial.stat().st_size else []
        return {(row.user_id, row.id) for row in rows}
    write_info(partial, info)
    return set()
