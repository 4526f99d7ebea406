"""`perpcs completion`: the shells' completion scripts, as in the directory completions/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from perpcs_cli.cli.completions import answers
from perpcs_cli.cli.console import Console

Shell = Literal["bash", "zsh", "fish"]
HERE = Path(answers.__file__).parent
SCRIPTS: dict[Shell, Path] = {"bash": HERE / "perpcs.bash", "zsh": HERE / "_perpcs", "fish": HERE / "perpcs.fish"}


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the completion script of a shell.

    In bash: eval "$(perpcs completion bash)"; in zsh the same with zsh; in fish: perpcs completion fish | source.
    """
    Console().data(SCRIPTS[shell].read_text(encoding="utf-8"))
