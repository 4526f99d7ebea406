"""Help: every command and option has it, in one short sentence where it is listed, and it loads nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_tree import COMMAND_TREE, TREE
from typer.testing import CliRunner

from perpcs_cli import __version__
from perpcs_cli.cli.main import COMMANDS, PANELS, app

HEAVY = {"torch", "transformers", "sklearn", "peft", "numpy", "safetensors", "tokenizers", "huggingface_hub"}


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
    """Spellings, type, range, how often, what stands for its value, and help; only the default may differ."""
    meanings: dict[str, dict[tuple[Any, ...], list[str]]] = {}
    for path, command in COMMAND_TREE.items():
        for parameter in command.params:
            if parameter.param_type_name != "option" or parameter.name == "help":
                continue
            form = (tuple(parameter.opts), tuple(parameter.secondary_opts), str(parameter.type_descriptor.annotation))
            many = (parameter.min, parameter.max, parameter.is_flag, parameter.multiple, parameter.metavar)
            for name in [*parameter.opts, *parameter.secondary_opts]:
                for part in (form, many, (parameter.help,)):
                    meanings.setdefault(name, {}).setdefault(part, []).append(" ".join(path))
    assert not {name: found for name, found in meanings.items() if len(found) > 3}


READ_ONLY = {
    ("status",),
    ("doctor",),
    ("chat",),
    ("show",),
    ("validate",),
    ("prompt",),
    ("similar",),
    ("audit",),
    ("plan",),
    ("completion",),
    ("pool", "list"),
    ("pool", "verify"),
    ("model", "list"),
    ("task", "list"),
    ("task", "show"),
    ("task", "check"),
    ("bench", "assemble"),
    ("bench", "prime"),
    ("bench", "mia"),
    ("bench", "scale"),
    ("bench", "host"),
    ("bench", "train"),
    ("bench", "device"),
}
"""Commands that write nothing to a workspace."""
WITHOUT_FORCE = {("sweep",), ("pool", "revoke")}
"""Where nothing is ever replaced: a sweep's places are named by their content, and what is revoked is gone."""


def flags_of(path: tuple[str, ...]) -> set[str]:
    params = TREE[path].params
    return {name for parameter in params if parameter.param_type_name == "option" for name in parameter.opts}


@pytest.mark.parametrize("path", COMMAND_TREE, ids=" ".join)
def test_every_command_has_the_flags_that_all_have(path: tuple[str, ...]) -> None:
    expected = set() if path == ("completion",) else {"--json", "--quiet", "-q"}
    if path not in READ_ONLY:
        expected |= {"--dry-run"} | (set() if path in WITHOUT_FORCE else {"--force"})
    assert flags_of(path) >= expected
    assert path not in READ_ONLY or not flags_of(path) & {"--force", "--dry-run", "--out"}


def sections(text: str) -> dict[str, str]:
    """Title → what stands below it, in a line."""
    parts = re.split(r"^(\w[\w ]*):\n", text, flags=re.M)
    return {title: " ".join(below.split()) for title, below in zip(parts[1::2], parts[2::2], strict=True)}


def test_flags_are_listed_by_what_they_are_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shown = sections(CliRunner().invoke(app, ["train-sharer", "--help"]).stdout)
    assert list(shown) == [
        "Options",
        "Workspace and model",
        "Users",
        "Training",
        "LoRA",
        "Prompts",
        "Differential privacy",
        "Output",
    ]
    for title, flag in {
        "Options": "--force",
        "Workspace and model": "--max-length",
        "Users": "--users-file",
        "Training": "--lr",
        "LoRA": "--lora-alpha",
        "Prompts": "--plain",
        "Differential privacy": "--dp-epsilon",
    }.items():
        assert next(name for name, below in shown.items() if f"{flag} " in below) == title
    assert "--json" in shown["Output"] and "--quiet" in shown["Output"] and shown["Output"].endswith("exit.")
    assert "SOURCE" in sections(CliRunner().invoke(app, ["import", "--help"]).stdout)["Arguments"]
    assert list(sections(CliRunner().invoke(app, ["--help"]).stdout)) == ["Options", *PANELS]


@pytest.mark.parametrize("path", COMMAND_TREE, ids=" ".join)
def test_no_flag_is_left_out_of_the_sections(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"]).stdout
    assert not {name for name in flags_of(path) if not re.search(rf"^  .*{name}\b", shown, flags=re.M)}


def test_help_shows_the_defaults_that_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke

    def training(*line: str, **environment: str) -> str:
        shown = run(app, ["train-sharer", *line, "--help"], env=environment)
        assert (shown.exit_code, shown.stderr) == (0, "")
        return re.sub(r"\s+", " ", shown.stdout)

    outside = training()
    assert "--lr <float> Learning rate of AdamW. [default: by the task]" in outside
    assert "--batch-size <int range> Examples per batch. [default: by the task; x>=1]" in outside
    assert "--rank <int range> Rank of the LoRA. [default: 8; x>=1]" in outside
    assert run(app, ["init", "work", "--task", "LaMP_2M", "--model", "owner/name", "--seed", "7"]).exit_code == 0
    settings = tmp_path / "work" / "perpcs.toml"
    before, section, after = settings.read_text().partition("[train]")
    settings.write_text(before + section + re.sub(r"(?m)^lr = .*", "lr = 0.125", after, count=1))
    inside = training("-w", "work")
    for words in (
        "Learning rate of AdamW. [default: 0.125]",
        "Examples per batch. [default: 6; x>=1]",
        "my.toml. [env var: PERPCS_TASK; default: movie_tagging]",
        "hub id. [env var: PERPCS_MODEL; default: owner/name]",
        "everything random. [env var: PERPCS_SEED; default: 7; x>=0]",
    ):
        assert words in inside
    assert "by the task" not in inside
    # The same by another spelling, by the environment, and in the workspace itself.
    assert training("--workspace=work") == training(PERPCS_WORKSPACE="work") == inside
    monkeypatch.chdir(tmp_path / "work")
    assert training() == inside
    settings.write_text("[[")
    assert training() == outside


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


def test_the_list_of_commands_loads_none_of_them() -> None:
    script = """
import sys
from typer.testing import CliRunner
from perpcs_cli.cli.main import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
print(*sorted(name for name in sys.modules if name.startswith(("perpcs_cli.", "msgspec"))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours = {"perpcs_cli.cli", "perpcs_cli.cli.main", "perpcs_cli.cli.process", "perpcs_cli.errors"}
    assert set(done.stdout.split()) == ours


def test_version() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, f"perpcs {__version__}\n", "")


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["assembel"]).exit_code == 2
