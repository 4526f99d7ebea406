"""What shells complete: fresh files, right answers, and the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_tree import TREE
from typer.testing import CliRunner

from perpcs_cli.cli.completions.answers import WORDS, answer
from perpcs_cli.cli.completions.command_words import command_words
from perpcs_cli.cli.main import app

COMPLETIONS = Path(__file__).parents[3] / "completions"
RUN = "import sys; from perpcs_cli.cli.entry import run; run()"


def values(line: str) -> list[str]:
    """What is offered for the words after `perpcs`, of which the last is being typed."""
    return [one.partition("\t")[0] for one in answer(line.split(" ")).splitlines()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace to complete in."""
    for path, text in {
        "splits/target.txt": "u1\nu2\n",
        "splits/candidate.txt": "v1\n",
        "sharers/v1/adapter_model.safetensors": "",
        "oppu/u1/adapter_model.safetensors": "",
        "recipes/u1.json": "",
        "recipes-prime/u1.json": "",
        "grid.toml": '[[experiment]]\nname = "main"\n[[experiment]]\nname = "alpha"\n',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("shell", "name"), [("bash", "perpcs.bash"), ("zsh", "_perpcs"), ("fish", "perpcs.fish")])
def test_committed_file_is_fresh(shell: str, name: str) -> None:
    done = CliRunner().invoke(app, ["completion", shell])
    assert done.exit_code == 0
    assert (COMPLETIONS / name).read_text(encoding="utf-8") == done.stdout, "run: make completions"


def test_the_words_are_fresh() -> None:
    assert WORDS.read_text(encoding="utf-8") == command_words(), "run: make completions"


def test_other_shells_are_refused() -> None:
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mod", ["model"]),
        ("model fetch ", ["smollm2-135m", "minilm"]),
        ("model fetch minilm --from ", ["auto", "hub", "pypi"]),
        ("model fetch minilm --from=h", ["hub"]),
        ("synth --form", ["--forms"]),
        ("task show mo", ["movie_tagging"]),
        ("init . --task mo", ["movie_tagging"]),
        ("assemble --user ", ["u1", "u2", "v1"]),
        ("assemble --users u1,u", ["u1,u1", "u1,u2"]),
        ("assemble --users @spl", [":file"]),
        ("predict --sharer ", ["v1"]),
        ("predict --recipes ", ["recipes", "recipes-prime", ":directory"]),
        ("predict --own o", ["oppu", ":directory"]),
        ("pool revoke ", ["v1"]),
        ("sweep grid.toml --experiment ", ["main", "alpha"]),
        ("show ", [":file"]),
        ("split --out ", [":directory"]),
        ("prime --alpha ", []),
        ("nonsense ", []),
    ],
)
def test_answers(here: Path, line: str, expected: list[str]) -> None:
    assert values(line) == expected


def test_another_workspace_is_asked(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "users.jsonl").write_text('{"user_id":"far","history":[]}\n{"user_id": "away"}\n', encoding="utf-8")
    assert values(f"assemble -w {other} --user ") == ["far", "away"]
    assert values(f"assemble --workspace={other} --user f") == ["far"]


def test_a_flag_that_was_given_is_not_offered_again(here: Path) -> None:
    assert "--force" not in values("assemble --force --")
    assert "--user" in values("assemble --user u1 --")


def test_every_command_and_flag_is_offered(here: Path) -> None:
    for path, command in TREE.items():
        line = " ".join(path)
        flags = {name for one in command.params for name in one.opts if name.startswith("--")}
        assert flags <= set(values(f"{line} --".strip())), line


def test_broken_lists_are_no_traceback(here: Path) -> None:
    (here / "splits" / "target.txt").write_bytes(b"\xff\xfe")
    done = subprocess.run(
        [sys.executable, "-c", RUN, "assemble", "--user", ""],
        env={**os.environ, "_PERPCS_COMPLETE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_answering_imports_no_command() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", RUN, "assemble", "--user", ""],
        env={**os.environ, "_PERPCS_COMPLETE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "perpcs_cli.cli.completions.answers" in imported
    assert not imported & {"typer", "rich", "msgspec", "torch", "perpcs_cli.cli.main"}


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source {file}\n"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source {file}\n"),
    "fish": (["fish", "--no-config", "-i"], "source {file}\n"),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("typed", "expected"), [("perpcs valid", "validate"), ("perpcs predict --sharer v", "v1")])
def test_in_the_shell_itself(here: Path, shell: str, typed: str, expected: str) -> None:
    """Types a line and a tab into an interactive shell, and looks at what it has become."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    command, setup = SHELLS[shell]
    (here / "bin").mkdir()
    (here / "bin" / "perpcs").write_text(f"#!{sys.executable}\n{RUN}\n", encoding="utf-8")
    (here / "bin" / "perpcs").chmod(0o755)
    file = COMPLETIONS / {"bash": "perpcs.bash", "zsh": "_perpcs", "fish": "perpcs.fish"}[shell]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("_PERPCS")}
    environment = {
        **clean,
        "PATH": f"{here / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "TERM": "xterm",
        "HOME": str(here),
    }
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(here)
        os.execvpe(command[0], command, environment)
    try:
        said = _said(terminal, setup.format(file=file), ready="ready-to-type")
        said = _said(terminal, f"{typed}\t", ready=expected)
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert expected in said


def _said(terminal: int, text: str, *, ready: str) -> str:
    """What the shell shows after `text` was typed, until `ready` is among it, for 20 seconds at most."""
    if text.endswith("\n"):
        text += f"echo {ready[:5]}''{ready[5:]}\n"
    os.write(terminal, text.encode())
    said, end = "", time.monotonic() + 20
    while time.monotonic() < end and ready not in said:
        if select.select([terminal], [], [], 0.2)[0]:
            said += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(terminal, 4096).decode(errors="replace"))
    return said
