"""Help: every command and option has it, in one short sentence where it is listed, and it loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from perpcs_cli import __version__
from perpcs_cli.cli.main import COMMANDS, app

HEAVY = {"torch", "transformers", "sklearn", "peft", "numpy", "safetensors", "tokenizers", "huggingface_hub"}


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its path."""
    yield path, command
    context = command.context_class(command, info_name="perpcs")
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from walk(command.get_command(context, name), (*path, name))


TREE = dict(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"Usage: perpcs {' '.join(path)}".rstrip())
    assert CliRunner().invoke(app, [*path, "-h"]).stdout == shown.stdout
    assert "completion for the current shell" not in shown.stdout


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_the_first_paragraph_is_one_short_sentence(path: tuple[str, ...]) -> None:
    first = TREE[path].help.split("\n\n")[0]
    assert first.endswith(".")
    assert first.count(". ") == 0
    assert len(first) <= 70


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_every_option_has_help(path: tuple[str, ...]) -> None:
    for parameter in TREE[path].params:
        if parameter.name != "help":
            assert parameter.help, parameter.name
            assert not parameter.help.startswith("["), parameter.name


def test_the_listings_show_each_line_whole() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for name, (_, line) in COMMANDS.items():
        assert any(row.split() == [name, *line.split()] for row in shown.splitlines()), name
    groups = [path for path, command in TREE.items() if path and hasattr(command, "list_commands")]
    assert ("pool",) in groups
    for group in groups:
        assert "..." not in CliRunner().invoke(app, [*group, "--help"]).stdout.partition("Commands:")[2]


def test_one_flag_means_one_thing_everywhere() -> None:
    names: dict[str, set[tuple[str, ...]]] = {}
    for command in TREE.values():
        for parameter in command.params:
            if parameter.opts[0].startswith("-"):
                names.setdefault(parameter.opts[0], set()).add(tuple(parameter.opts))
    assert not {name: spellings for name, spellings in names.items() if len(spellings) > 1}


def test_help_loads_nothing_heavy() -> None:
    script = """
import json, sys
from typer.testing import CliRunner
from perpcs_cli.cli.main import app
lines = json.loads(sys.argv[1])
codes = [CliRunner().invoke(app, [*line, "--help"]).exit_code for line in lines]
print(json.dumps([codes, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([list(path) for path in TREE])],
        capture_output=True,
        text=True,
        check=True,
    )
    codes, modules = json.loads(done.stdout)
    assert codes == [0] * len(TREE)
    assert "typer" in modules
    assert HEAVY.isdisjoint(modules)


def test_version() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, f"perpcs {__version__}\n", "")


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["assembel"]).exit_code == 2
