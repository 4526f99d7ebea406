"""A workspace in which every command can run."""

from __future__ import annotations

import shutil

import pytest
from embedded_workspace import PRIME, embedded
from shell import Shell, named
from writing_commands import PARTS, SWEEP

from perpcs_cli.artifacts.adapter import CONFIG, WEIGHTS


@pytest.fixture(scope="session")
def finished(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A workspace in which every form can run. Tests only look at it."""
    shell = embedded(walked, tmp_path_factory.mktemp("finished"))
    lines = (
        "retrieve --similar 2",
        "assemble --plain --top-k 2 --out recipes-packed.jsonl",
        f"{PRIME} --user TARGET",
        "pool build --pseudonymize --out keyed.json",
    )
    for line in (*lines, *(f"{part} --shard 1/2" for part in PARTS)):
        done = shell(named(shell, line))
        assert done.exit_code == 0, done.stderr
    (shell.root / "foreign").mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(shell.root / "oppu" / shell.ids("target")[0] / name, shell.root / "foreign")
    (shell.root / "sweep.toml").write_text(SWEEP.replace("{model}", str(shell.model)))
    return shell
