"""Values that no option takes, for every option of every command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import typer
from command_tree import COMMAND_TREE
from shell import USAGE, refused
from typer.testing import CliRunner

from perpcs_cli.artifacts.io.limits import LARGEST
from perpcs_cli.cli.given import problem
from perpcs_cli.cli.main import app

DIGITS = "9" * 5000
BAD = {
    str: ("", "a\0b", "\udcff"),
    int: ("", "nan", "1e400", "-" + DIGITS, DIGITS, str(LARGEST + 1), "0x10", "1.5"),
    float: ("", "nan", "inf", "-inf", "1e400", DIGITS, "one"),
}

WRITTEN = ("--out", "--save-merged", "--pareto", "--plot", "--write-lamp")
DIRECTORIES = {
    *(
        ((name,), "--out")
        for name in ("split", "select", "adapt", "train-sharer", "gate", "sweep", "adopt", "export", "workflow")
    ),
    (("adapt",), "--save-merged"),
}
EITHER = {((name,), "--out") for name in ("assemble", "retrieve", "prime")}
"""What they are is told by the name, and refused by the step."""


def valued(command: Any) -> Iterator[tuple[Any, Any]]:
    """The options that take a value, and of what type: numbers as they are, else text."""
    for parameter in command.params:
        kind = parameter.type_descriptor.annotation
        if parameter.param_type_name == "option" and not parameter.is_flag and get_origin(kind) is not type:
            yield parameter, kind if kind in (int, float) else str


@pytest.mark.parametrize("path", COMMAND_TREE, ids=" ".join)
def test_every_option_refuses_them_by_its_name(path: tuple[str, ...]) -> None:
    command = COMMAND_TREE[path]
    for parameter, kind in valued(command):
        name = max(parameter.opts, key=len)
        for value in BAD[kind]:
            with pytest.raises(typer.BadParameter) as error:
                command.make_context("perpcs", [name, value])
            assert error.value.param is parameter, (name, value[:9])
            assert len(error.value.format_message()) < 300


@pytest.mark.parametrize("path", COMMAND_TREE, ids=" ".join)
def test_so_do_their_variables(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    command = COMMAND_TREE[path]
    for parameter, kind in valued(command):
        if parameter.envvar:
            for value in ("\udcff",) if kind is str else (DIGITS, str(2 * LARGEST)):
                with monkeypatch.context() as patch, pytest.raises(typer.BadParameter) as error:
                    patch.setenv(parameter.envvar, value)
                    command.make_context("perpcs", [])
                assert error.value.param is parameter


def test_it_is_wrong_usage() -> None:
    message = refused(CliRunner().invoke(app, ["retrieve", "--temperature", "nan"]), USAGE)
    assert message == "Invalid value for '--temperature': nan is not a finite number.\n"
    assert "'PREDICTIONS'" in refused(CliRunner().invoke(app, ["eval", ""]), USAGE)
    assert "--out" in refused(CliRunner().invoke(app, ["synth", "--out", ""]), USAGE)


def test_help_is_shown_all_the_same() -> None:
    assert CliRunner().invoke(app, ["adapt", "--lr", "nan", "--help"]).exit_code == 0


@pytest.mark.parametrize(("text", "kind"), [("0", int), ("-3", int), (str(LARGEST), int), ("1e300", float), (" ", str)])
def test_what_is_left_to_the_ranges(text: str, kind: Any) -> None:
    assert problem(text, kind) is None


@pytest.mark.parametrize("path", COMMAND_TREE, ids=" ".join)
def test_nothing_is_written_over_links_and_devices(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("directory").mkdir()
    Path("link").symlink_to("file")
    Path("dangling").symlink_to("nowhere")
    Path("to-directory").symlink_to("directory")
    os.mkfifo("pipe")
    command = COMMAND_TREE[path]
    for parameter, _ in valued(command):
        name = max(parameter.opts, key=len)
        if name not in WRITTEN:
            continue
        into, either = ((path, name) in some for some in (DIRECTORIES, EITHER))
        for place in (
            "link",
            "dangling",
            "pipe",
            "file/below/it",
            os.devnull,
            *([] if either else ["file"] if into else ["directory", "to-directory"]),
        ):
            with pytest.raises(typer.BadParameter) as error:
                command.make_context("perpcs", [name, place])
            assert error.value.param is parameter, (name, place)
        for place in ("new", "new/deep", "directory" if into else "file", *(["to-directory"] if into else [])):
            try:
                command.make_context("perpcs", [name, place])
            except typer.BadParameter as error:
                assert error.param is not parameter
    assert Path("link").readlink() == Path("file")


def test_a_place_that_is_no_directory_is_not_passed_over(tmp_path: Path) -> None:
    for line in ("pool revoke u1 --recipes {}", "pool revoke u1 --traces {}"):
        done = CliRunner().invoke(app, line.format(tmp_path / "none").split())
        assert "no such directory" in refused(done, USAGE)
