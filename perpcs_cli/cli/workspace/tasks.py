"""`perpcs task`: the tasks that there are, and whether the file of an own one is right."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from perpcs_cli.cli.command import Command, command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.tasks.spec import Task, get_task, shipped_tasks

app = typer.Typer(
    name="task",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List tasks, and check the file of an own one.",
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One task as `perpcs task list --json` shows it."""

    name: str
    lamp: str
    fields: tuple[str, ...]
    answers: str
    metrics: tuple[str, ...]


TaskArgument = Annotated[
    str,
    typer.Argument(metavar="TASK", help="A task's name, or the file of an own one."),
]


@app.command("list", cls=Command)
@command
def list_tasks(console: Console) -> None:
    """List the tasks that are shipped."""
    rows = [
        Row(name=task.name, lamp=task.lamp, fields=task.required, answers=_answers(task), metrics=task.metrics)
        for task in shipped_tasks().values()
    ]
    columns = [Column("name"), Column("LaMP's name"), Column("fields"), Column("answers"), Column("metrics")]
    cells = [(r.name, r.lamp, ", ".join(r.fields), r.answers, ", ".join(r.metrics)) for r in rows]
    console.result(rows, render(Table(columns, [cells]), "table"))


@app.command("show", cls=Command)
@command
def show(console: Console, task: TaskArgument) -> None:
    """Print a task's file.

    A good start for an own one: give it another name.
    """
    found = get_task(task)
    content = {name: getattr(found, name) for name in found.__struct_fields__ if name not in ("white_space", "file")}
    console.result(content, found.file.read_text(encoding="utf-8"))


@app.command("check", cls=Command)
@command
def check(console: Console, task: TaskArgument) -> None:
    """Check the file of an own task.

    Lists everything that is wrong in it. Else prints its prompts, with made-up fields and with the answers.
    """
    from perpcs_cli.artifacts.settings import make_settings
    from perpcs_cli.tasks.published_settings import published_settings
    from perpcs_cli.tasks.sample_prompts import sample_prompts

    found = get_task(task)
    make_settings(published_settings(task), {"model": ""}, where=found.file)
    samples = sample_prompts(found)
    head = f"{found.name}: {_answers(found)}, at most {found.max_new_tokens} tokens; {' and '.join(found.metrics)}"
    console.result(samples, "\n\n".join([head, *(f"# {one.what}\n{one.prompt}{one.answer}" for one in samples)]))


def _answers(task: Task) -> str:
    return "text" if not task.labels else f"{len(task.labels)} labels"
