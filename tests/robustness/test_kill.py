"""Killed at any of its writes, a command goes on when it is run again, to the very same files; nothing is left over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from embedded_workspace import fresh
from forks import differences, run, tree
from shell import Shell, named
from writing_commands import FORMS, NOT_HERE, TORTURE

from perpcs_cli.cli.main import app

KILLED = -9
SHORT_FORM = 2
"""Kills of each command where there is no time for all."""
MOST = 450
"""A sweep, which runs the other commands, is killed at some of its writes."""


@pytest.mark.parametrize("form", FORMS)
def test_killed_anywhere_it_goes_on(form: str, finished: Shell, tmp_path: Path) -> None:
    line = named(finished, FORMS[form])
    shell = fresh(finished, tmp_path)
    whole = run(shell, line)
    assert whole.code == 0, whole.output
    wanted = tree(shell.root)
    kills = [(at, False) for at in range(whole.writes)] + [(at, True) for at in whole.torn]
    if not TORTURE:
        kills = kills[len(kills) // (SHORT_FORM + 1) :: len(kills) // (SHORT_FORM + 1) + 1]
    elif len(kills) > MOST:
        kills = kills[:: len(kills) // 100]
    wrong = []
    for at, tear in kills:
        shell = fresh(finished, tmp_path)
        killed = run(shell, line, at, tear=tear)
        assert killed.code == KILLED, killed.output
        again = run(shell, line)
        # Who is out of the pool is no longer known to it.
        gone = form.startswith("pool revoke") and "no such sharer" in again.output
        told = [again.output] if again.code and not gone else []
        if differ := differences(tree(shell.root), wanted):
            told.append(differ)
        if told:
            wrong.append(f"write {at}{', torn' * tear}: {'; '.join(told)}")
    sys.stdout.write(f"{form}: {len(kills)} kills at {whole.writes} writes, {len(wrong)} wrong\n")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(kills)} kills", *wrong[:10]])


def test_every_command_that_writes_is_here() -> None:
    def walk(command: object, name: str) -> list[str]:
        if isinstance(command, typer.core.TyperGroup):
            inner = [(one, command.get_command(None, one)) for one in command.list_commands(None)]
            return [found for one, sub in inner for found in walk(sub, f"{name} {one}".strip())]
        flags = {flag for parameter in command.params for flag in parameter.opts}
        return [name] if flags & {"--dry-run", "--force"} else []

    writing = walk(typer.main.get_command(app), "")
    covered = {name for name in writing for line in FORMS.values() if line.startswith(f"{name} ")}
    assert set(writing) - covered == set(NOT_HERE)
