"""`perpcs chat`: what the base and a user's personalized models answer to what someone types."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.cli import flags, process, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.evaluate.predict import AdapterOption, SharerOption
from perpcs_cli.cli.terminal import window
from perpcs_cli.cli.terminal.answers import compared, compared_text
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType


@command
def chat(
    console: Console,
    base: flags.BaseFlags,
    who: flags.UserFlags,
    asked: flags.PromptFlags,
    how: setting_flags.PredictFlags,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to ask; - reads it from stdin.", show_default="line by line"),
    ] = None,
    recipes: flags.RecipesOption = None,
    sharer: SharerOption = None,
    adapter: AdapterOption = None,
    own: flags.OwnOption = None,
    pool: flags.PoolOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="PROMPT is the whole prompt, and no query of the task.")] = False,
) -> None:
    """Compare the base's answers with a user's personalized ones.

    PROMPT is put into the task's wording, as a query is, and answered by the base, by the base with its task adapter,
    and by each model of --recipes (default: recipes/; a file is a recipe), --sharer, --adapter and --own, as `perpcs
    predict` would. Without PROMPT, what is piped in is one prompt; on a terminal each line is one of its own, until
    Ctrl-D. A query of several fields is LaMP's whole wording, or a JSON object of an own task's fields.
    """
    from perpcs_cli.steps.evaluate.chat import open_chat

    opened = open_chat(
        base.open(how),
        who.who(),
        recipes=recipes or (),
        sharer=sharer,
        adapter=adapter,
        own=own or (),
        pool=pool,
        shown=asked.shown(),
        raw=raw,
        report=console,
    )
    several = prompt is None and sys.stdin.isatty()
    texts = _lines() if several else [_whole(prompt)]
    opened.load()
    for text in texts:
        try:
            with console.growing() as grow:
                reply = opened.ask(text, lambda answers: grow(_picture(answers)))
        except (DataError, UsageError) as error:
            if not several:
                raise
            # The next line may be another matter.
            console.warn(str(error))
            continue
        known = "" if reply.reference is None else compared_text(_seen({"reference": reply.reference}))
        console.result(reply, compared_text(_seen(reply.answers)) + known)


def _whole(prompt: str | None) -> str:
    """The one prompt. Raises UsageError for an empty one."""
    text = _piped() if prompt is None or prompt == str(process.STREAM) else prompt
    if not text.strip():
        raise UsageError("there is nothing to answer", where="PROMPT")
    return text.rstrip("\r\n")


def _piped() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: {error.reason} at byte {error.start}", where="stdin") from None


def _lines() -> Iterator[str]:
    """What a person types, line by line, until the end of file."""
    # With it, a line can be edited, and earlier ones come back.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            line = input("> " if sys.stdout.isatty() else "")
        except EOFError:
            process.talk("\n")
            return
        if line.strip():
            yield line


def _seen(texts: dict[str, str]) -> dict[str, str]:
    return {title: process.visible(text) for title, text in texts.items()}


def _picture(answers: dict[str, str]) -> RenderableType:
    """Answers that grow; of a character of which not all bytes are there, nothing is shown."""
    return compared(_seen({name: said.rstrip("\ufffd") for name, said in answers.items()}), window.width() or 0)
