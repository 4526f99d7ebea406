"""`perpcs init`: make a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.workspace import FILE, Preset, make_settings, to_toml
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import DeviceOption, DtypeOption, ForceOption, QuietOption, SeedOption, layer
from perpcs_cli.model.catalogue import absolute
from perpcs_cli.tasks.presets import published_settings


def init(
    directory: Annotated[Path, typer.Argument(help="The workspace to make.")] = Path(),
    task: Annotated[
        str, typer.Option("--task", envvar="PERPCS_TASK", help="LaMP task, as movie_tagging or LaMP_2M.")
    ] = ...,  # type: ignore[assignment]
    model: Annotated[
        str, typer.Option("--model", envvar="PERPCS_MODEL", help="A name from `perpcs model list`, a path or a hub id.")
    ] = "smollm2-135m",
    preset: Annotated[
        Preset, typer.Option("--preset", help="The paper whose published settings to start from.")
    ] = "per-pcs",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a workspace.

    It is a directory with perpcs.toml, where every other command finds its settings and files.
    """
    path = directory / FILE
    store.refuse_existing(path, force=force)
    flags = {"model": absolute(model), "device": device, "dtype": dtype, "seed": seed}
    settings = make_settings(
        published_settings(task, preset),
        layer(flags),
    )
    store.write_text(path, to_toml(settings))
    Console(quiet=quiet).note(f"wrote {path}: {settings.task}, {settings.model}, preset {preset}")
