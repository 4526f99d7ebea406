"""`perpcs import`: bring in LaMP's files, the published Per-PCs layout, or the data of an own task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perpcs_cli.cli import flags, process
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.errors import DataError, counted

if TYPE_CHECKING:
    from perpcs_cli.steps.job import Outcome
    from perpcs_cli.tasks.importing.import_users import ImportResult

SHOWN = 20
AllowBrokenOption = Annotated[
    bool, typer.Option("--allow-broken", help="Write the good records and leave out the broken ones.")
]


@command
def import_(
    console: Console,
    write: flags.WriteFlags,
    here: flags.PlaceFlags,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Files or directories: LaMP's questions and outputs, Per-PCs' users.json, or users.jsonl; of an own "
            "task, JSON, CSV or Parquet.",
            show_default=False,
        ),
    ],
    task: flags.TaskOption = None,
    out: Annotated[Path | None, flags.out_option("users.jsonl of the workspace", "file")] = None,
    allow_broken: AllowBrokenOption = False,
) -> None:
    """Read users from LaMP's and other layouts.

    Of an own task, whose file says what columns are called, a record is a user or one item. Checks every record and
    writes users.jsonl; - is stdin, and --out - stdout. Broken records are listed, and nothing is written then, unless
    with --allow-broken.
    """
    from perpcs_cli.steps.data.import_users import import_users

    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(process.spooled(path)) for path in sources]
        place = stack.enter_context(process.printed(out, "users.jsonl"))
        found, outcome = import_users(
            files,
            here.places,
            task=task,
            allow_broken=allow_broken,
            out=place,
            **write.mode(console),
        )
    if out != process.STREAM or outcome is None:
        tell(console, found, outcome)


def tell(
    console: Console, found: ImportResult[int], outcome: Outcome[bool] | None, more: Mapping[str, object] | None = None
) -> None:
    """Say what an import has found and written; `more` goes into the JSON.

    Raises DataError where records were broken, and nothing was written.
    """
    for problem in found.problems[:SHOWN]:
        console.warn(str(problem))
    if len(found.problems) > SHOWN:
        console.warn(f"and {len(found.problems) - SHOWN} more problems; --json lists them all")
    for note in found.notes:
        console.note(note)
    counts = msgspec.structs.asdict(found.counts)
    place = {"path": str(outcome.path), "state": outcome.state} if outcome else {"path": None, "state": "refused"}
    value = {**place, **counts, "problems": found.problems, "notes": found.notes, **(more or {})}
    if not outcome:
        if console.json:
            console.result(value, "")
        raise DataError(
            f"{counted(len(found.problems), 'problem')}; nothing was written",
            hint="Mend the records, or write the good ones with --allow-broken.",
        )
    if found.problems:
        console.warn(f"records with {counted(len(found.problems), 'problem')} were left out")
    text = (
        f"{outcome.path}\t{counts['users']} users\t{counts['items']} history items\t"
        f"{counts['queries']} queries ({counts['answered']} with an answer)"
    )
    console.result(value, text + ("\tto do" if outcome.state == "to do" else ""))
