"""The documentation is true: the reference page is fresh, and what the README shows can be typed."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from perpcs_cli.cli.main import COMMANDS, app
from perpcs_cli.cli.reference import reference

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCRIPTS = [README, *(path.read_text() for path in sorted((ROOT / "examples").glob("*.sh")))]


def shown_commands() -> list[list[str]]:
    """Every `perpcs …` line in the README's code blocks, as words."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("perpcs ")]


def test_the_reference_page_is_fresh() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == reference(), "run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_names_every_command(name: str) -> None:
    assert f"perpcs {name}" in README


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_a_shown_command_parses(words: list[str]) -> None:
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="perpcs")
    while words and hasattr(command, "get_command"):
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
    command.make_context("perpcs", list(words))
