"""`perpcs prompt --user u42`: exactly what the model sees of a user, with token counts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpcs_cli.artifacts.users import held_out, newest
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import (
    BaseFlags,
    ExampleFlags,
    HoldOutOption,
    JsonOption,
    RecentOption,
    SourceOption,
    UserFlags,
    layer,
    takes,
)
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.prompts import Source

if TYPE_CHECKING:
    from perpcs_cli.artifacts.users import User
    from perpcs_cli.cli.context import Context
    from perpcs_cli.tasks.prompts import Prompt

Command = Literal["predict", "train-sharer", "gate", "assemble", "prime", "adapt"]

LISTS: dict[Command, tuple[str, ...]] = {
    "adapt": ("base",),
    "train-sharer": ("sharer", "candidate"),
    "gate": ("sharer", "candidate"),
}
"""The lists in splits/ whose users a command takes by default; the others take the targets."""


@takes(BaseFlags, UserFlags, ExampleFlags)
def prompt(
    base: BaseFlags,
    who: UserFlags,
    asked: ExampleFlags,
    command: Annotated[Command, typer.Option("--for", help="The command whose prompts are shown.")] = "predict",
    key: Annotated[
        list[str] | None, typer.Option("--id", metavar="<id>", help="Only this query or item; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many prompts of each user. [default: all]")
    ] = None,
    recent: RecentOption = None,
    hold_out: HoldOutOption = 0.0,
    source: SourceOption = None,
    data_fraction: Annotated[
        float | None, typer.Option("--data-fraction", help="With prime: share of the history. [default: perpcs.toml]")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="With predict: room for the answer. [default: perpcs.toml]"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show exactly what the model sees.

    Prints each prompt as the command given by --for makes it with these flags and the workspace's settings, after it
    was cut to fit, with special tokens and with the tokens of each part. The users are those that the command takes by
    default. Loads the tokenizer, not the model.
    """
    given = {
        "--recent": (recent, ("train-sharer", "gate", "assemble", "prime")),
        "--hold-out": (hold_out, ("train-sharer", "gate")),
        "--source": (source, ("adapt",)),
        "--data-fraction": (data_fraction, ("prime",)),
        "--max-new-tokens": (max_new_tokens, ("predict",)),
        "--plain": (asked.plain, ("train-sharer", "gate", "assemble", "adapt")),
    }
    if odd := [flag for flag, (value, commands) in given.items() if value and command not in commands]:
        raise UsageError(f"{command} has no such flag", where=odd[0])
    sections: dict[str, dict[str, object]] = {
        "prime": {"data_fraction": data_fraction},
        "predict": {"max_new_tokens": max_new_tokens},
    }
    context = base.open(**{name: layer(flags) for name, flags in sections.items()})
    users = who.select(context, *LISTS.get(command, ("target",)))
    prompts = {
        user.user_id: _prompts(context, user, command, asked, recent, hold_out, source or "auto") for user in users
    }
    wanted = set(key or [])
    if missing := wanted - {one.key for some in prompts.values() for one in some}:
        raise UsageError(f"no such query or item: {min(missing)!r}", where="--id")

    from perpcs_cli.model.base import locate
    from perpcs_cli.model.batching import count_parts, fit, tokenize
    from perpcs_cli.model.vocabulary import load_vocabulary

    settings = context.settings
    reader = load_vocabulary(locate(settings.model))
    longest = context.task.generates_history if command == "prime" else 0
    reserve = (longest or settings.predict.max_new_tokens) if command in ("predict", "prime") else 0
    rows = []
    for user_id, some in prompts.items():
        for whole in [one for one in some if not wanted or one.key in wanted][:limit]:
            try:
                short = fit(reader, whole, settings.max_length, reserve=reserve)
            except DataError as error:
                raise DataError(error.what, where=f"user {user_id}", hint=error.hint) from None
            encoded = tokenize(reader, short)
            counts = count_parts(reader, short)
            rows.append(
                {
                    "user_id": user_id,
                    "id": whole.key,
                    "prompt": reader.tokenizer.decode(encoded.prompt),
                    "answer": reader.tokenizer.decode(encoded.answer),
                    "tokens": {"all": len(encoded), **counts},
                    "cut": len(tokenize(reader, whole)) - len(encoded),
                }
            )
    Console(json=json, quiet=base.quiet).result(rows, "\n\n".join(map(_text, rows)))


def _prompts(
    context: Context,
    user: User,
    command: Command,
    asked: ExampleFlags,
    recent: int | None,
    hold_out: float,
    source: Source,
) -> list[Prompt]:
    """The prompts that `command` makes of a user, before they are cut to fit."""
    from perpcs_cli.methods.prime import sample_items
    from perpcs_cli.tasks.examples import adaptation_prompts, history_prompts, query_prompts, training_prompts

    settings, task = context.settings, context.task
    if command == "adapt":
        return adaptation_prompts(task, [user], asked.examples(), source=source, seed=settings.seed)
    if command == "predict":
        prompts = query_prompts(task, user, asked.shown(), seed=settings.seed)
        return [replace(one, answer=None) for one in prompts]
    if command == "prime":
        seen = newest(user, recent or settings.prime.recent)
        prompts = history_prompts(task, seen, asked.shown(), seed=settings.seed)
        items = sample_items(prompts, settings.prime.data_fraction, settings.seed, user.user_id)
        return [replace(one, answer=None) for one in items]
    seen = newest(user, recent or (settings.assemble.recent if command == "assemble" else None))
    seen, _ = held_out(seen, hold_out, settings.seed)
    return training_prompts(task, seen, asked.examples(), seed=settings.seed)


def _text(row: dict[str, object]) -> str:
    tokens = row["tokens"]
    assert isinstance(tokens, dict)
    parts = ", ".join(f"{name} {count}" for name, count in tokens.items() if name != "all" and count)
    cut = f"; {row['cut']} cut" if row["cut"] else ""
    return f"# {row['user_id']} {row['id']}: {tokens['all']} tokens ({parts}{cut})\n{row['prompt']}{row['answer']}"
