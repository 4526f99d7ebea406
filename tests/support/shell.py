"""The whole path as command lines, and a directory in which commands run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner, Result

from perpcs_cli.cli.main import app

SHORT = "--plain --steps 2"
STEPS = {
    "init": "init . --task news_headline --model {model} --device cpu --dtype float32 --seed {seed}",
    "synth": "synth --count 8 --history 4 --queries 2",
    "split": "split --targets 2",
    "adapt": f"adapt {SHORT} --lr 1e-2 --save-merged merged",
    "train-sharer": f"train-sharer {SHORT} --lr 1e-2",
    "gate": f"gate {SHORT} --lr 1e-1",
    "pool build": "pool build",
    "assemble": "assemble --plain --top-k 2",
    "oppu": f"train-sharer {SHORT} --lr 1e-2 --users @splits/target.txt --out oppu",
    "predict base": "predict --base --max-new-tokens 8",
    "predict recipes": "predict --recipes recipes --max-new-tokens 8",
    "predict sharer": "predict --sharer {sharer} --name sharer --max-new-tokens 8",
    "predict own": "predict --own oppu --max-new-tokens 8",
    "eval": "eval predictions/base.jsonl predictions/per-pcs.jsonl predictions/sharer.jsonl predictions/oppu.jsonl "
    "--resamples 20 --out metrics/eval.json",
}
"""The whole path, by step."""


@dataclasses.dataclass
class Shell:
    """A directory in which commands run, and what the path's steps answered."""

    root: Path
    model: Path
    seed: int = 0
    results: dict[str, Result] = dataclasses.field(default_factory=dict)

    def __call__(self, line: str | list[str], **environment: str) -> Result:
        """Run `perpcs LINE` here, a text or its words, without the caller's PERPCS_ variables."""
        own = {name: None for name in os.environ if name.startswith("PERPCS_")}
        with contextlib.chdir(self.root):
            return CliRunner(env={**own, **environment}).invoke(app, line.split() if isinstance(line, str) else line)

    def step(self, name: str, more: str = "") -> Result:
        """Run a step of the path."""
        line = STEPS[name].format(model=self.model, seed=self.seed, sharer=self.ids("candidate")[0])
        return self(f"{line} {more}")

    def ids(self, part: str) -> list[str]:
        """The users of a part of the split; before it is drawn, nobody."""
        path = self.root / "splits" / f"{part}.txt"
        return path.read_text().split() if path.exists() else [""]

    def walk(self) -> dict[str, bytes]:
        """Every file's content, by its path."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }


MakeShell = Callable[[int], Shell]
"""Walks the whole path in a new directory, with a seed."""

RUNTIME, USAGE, DATA = 1, 2, 3
"""Exit codes."""


def named(shell: Shell, text: str) -> str:
    """Put the first sharer, the first target and the model into a line."""
    names = {"SHARER": shell.ids("candidate")[0], "TARGET": shell.ids("target")[0], "MODEL": str(shell.model)}
    return re.sub("|".join(names), lambda found: names[found[0]], text)


def refused(result: Result, code: int) -> str:
    """The message of a command that failed as it should: the exit code, no traceback, no data."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    message = re.search(r"^(error|Error): (.*)", result.stderr, flags=re.M | re.S)
    assert message, result.stderr
    assert "Traceback" not in result.stderr
    return message[2]
