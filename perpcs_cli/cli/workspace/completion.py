"""`perpcs completion`: the shells' completion scripts, as in the directory completions/."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from perpcs_cli.cli.console import Console

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the completion script of a shell.

    In bash: eval "$(perpcs completion bash)".
    """
    from typer._completion_shared import get_completion_script

    Console().data(get_completion_script(prog_name="perpcs", complete_var="_PERPCS_COMPLETE", shell=shell))
