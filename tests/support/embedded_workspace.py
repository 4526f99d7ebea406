"""The finished path with embeddings, for the commands that look for similar sharers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from shell import Shell, named

EMBED = "embed --encoder MODEL"
PRIME = "prime --budget 5 --similar 2 --popsize 3 --alpha 0.5"


def copied(shell: Shell, directory: Path) -> Shell:
    """A copy of a workspace, to change."""
    shutil.copytree(shell.root, directory / "work")
    return dataclasses.replace(shell, root=directory / "work")


def embedded(walked: Shell, directory: Path) -> Shell:
    """A copy in which everyone is embedded, with the tiny model as the encoder, and answers are short."""
    shell = copied(walked, directory)
    done = shell(named(shell, EMBED))
    assert done.exit_code == 0, done.stderr
    settings = shell.root / "perpcs.toml"
    text = settings.read_text()
    assert "max_new_tokens = 48" in text
    settings.write_text(text.replace("max_new_tokens = 48", "max_new_tokens = 6"))
    return shell


def fresh(finished: Shell, place: Path) -> Shell:
    """Another copy of the workspace, at the same path: some files hold their own."""
    root = place / "work"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(finished.root, root)
    return dataclasses.replace(finished, root=root)
