"""`perpcs init`: make a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from perpcs_cli.artifacts.settings import Paper, Preset
from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcome
from perpcs_cli.cli.setting_flags import setting
from perpcs_cli.errors import UsageError


@command
def init(
    console: Console,
    write: flags.WriteFlags,
    directory: Annotated[Path, typer.Argument(help="The workspace to make.")] = Path(),
    task: flags.TaskOption = None,
    model: Annotated[str, setting("model")] = "smollm2-135m",
    paper: Annotated[Paper, setting("paper")] = "per-pcs",
    preset: Annotated[Preset, setting("preset")] = "perpcs",
    device: flags.DeviceOption = None,
    dtype: flags.DtypeOption = None,
    quantize: flags.QuantizeOption = None,
    seed: flags.SeedOption = None,
) -> None:
    """Make a workspace.

    It is a directory with perpcs.toml, where every other command finds its settings and files. Give the task with
    --task; the model is smollm2-135m by default. The file of an own task is copied into the workspace.
    """
    from perpcs_cli.steps.init_workspace import init as step
    from perpcs_cli.tasks.spec import get_task

    if task is None:
        raise UsageError("is missing", where="--task", hint="`perpcs task list` names them; an own one is a file.")
    given = flags.layer({"device": device, "dtype": dtype, "quantize": quantize, "seed": seed})
    start: dict[str, Any] = {"paper": paper, "preset": preset}
    settings, outcome = step(directory, task=task, model=model, **start, **write.mode(console), **given)
    show_outcome(console, outcome, [get_task(task).name, settings.model, f"paper {paper}", f"preset {preset}"])
