"""`perpcs prompt --user u42`: exactly what the model sees of a user, with token counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.data.prompt import Step

if TYPE_CHECKING:
    from perpcs_cli.steps.data.prompt import ShownPrompt


@command
def prompt(
    console: Console,
    base: flags.BaseFlags,
    who: flags.UserFlags,
    asked: flags.ExampleFlags,
    scored: setting_flags.ScoredFlags,
    room: setting_flags.AnswerRoomFlags,
    step: Annotated[Step, typer.Option("--for", help="The command whose prompts are shown.")] = "predict",
    key: Annotated[
        list[str] | None, typer.Option("--id", metavar="<id>", help="Only this query or item; may be repeated.")
    ] = None,
    first: Annotated[
        int | None, typer.Option("--first", min=1, help="Only the first prompts of each user.", show_default="all")
    ] = None,
    recent: flags.RecentOption = None,
    hold_out: flags.HoldOutOption = 0.0,
    source: flags.SourceOption = None,
) -> None:
    """Show exactly what the model sees.

    Prints each prompt as the command given by --for makes it with these flags and the workspace's settings, after it
    was cut to fit, with special tokens and with the tokens of each part. The users are those that the command takes by
    default. Loads the tokenizer, not the model.
    """
    from perpcs_cli.steps.data.prompt import prompt as run

    given = {
        "--recent": (recent, ("train-sharer", "gate", "assemble", "prime")),
        "--hold-out": (hold_out, ("train-sharer", "gate")),
        "--source": (source, ("adapt",)),
        "--data-fraction": (scored.given.get("data_fraction"), ("prime",)),
        "--prompts": (scored.given.get("prompts"), ("prime",)),
        "--max-new-tokens": (room.given, ("predict",)),
        "--plain": (asked.plain, ("train-sharer", "gate", "assemble", "adapt")),
    }
    if odd := [flag for flag, (value, steps) in given.items() if value and step not in steps]:
        raise UsageError(f"{step} has no such flag", where=odd[0])
    shown = asked.examples() if step in ("train-sharer", "gate", "assemble", "adapt") else asked.shown()
    rows = run(
        base.open(scored, room),
        step,
        who.who(),
        shown=shown,
        ids=key or (),
        first=first,
        recent=recent,
        hold_out=hold_out,
        source=source or "auto",
    )
    console.result(rows, "\n\n".join(map(_text, rows)))


def _text(row: ShownPrompt) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in row.tokens.items() if name != "all" and count)
    cut = f"; {row.cut} cut" if row.cut else ""
    return f"# {row.user_id} {row.id}: {row.tokens['all']} tokens ({parts}{cut})\n{row.prompt}{row.answer}"
