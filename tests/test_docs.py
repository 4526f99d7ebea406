"""The documentation is true: what its pages and the examples show can be typed, and the tutorial can be followed."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import typer
from shell import Shell

from perpcs_cli.artifacts.settings import Paper, Preset, declared, make_settings
from perpcs_cli.artifacts.sweep import flat
from perpcs_cli.cli.main import COMMANDS, app
from perpcs_cli.model.loading.catalogue import CATALOGUE
from perpcs_cli.model.loading.fetch import CARD
from perpcs_cli.tasks.published_settings import published_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
TUTORIAL = ROOT / "docs" / "tutorial.md"
PLACES = [ROOT / "README.md", *PAGES, *sorted((ROOT / "examples").glob("*.sh"))]
README_LINES = 120


def script(path: Path, kinds: str = "bash|sh") -> list[str]:
    """The lines of a shell script, or of a page's code blocks of some kinds; continued ones joined."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "".join(re.findall(rf"^```(?:{kinds})\n(.*?)^```", text, flags=re.S | re.M))
    return text.replace("\\\n", " ").splitlines()


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of every `perpcs …` in a line. A quoted variable is some value; an unquoted one, flags, is left out."""
    line = re.sub(r'"[^"]*\$[^"]*"', "1", line.replace('"$like"', "per-pcs-1"))
    line = re.sub(r"\$\w+", "", line)
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("();<>|&"):
            if command[:1] == ["perpcs"]:
                yield command[1:]
            command = []
        elif command or word == "perpcs":
            command.append(word)


def default_flags(path: Path) -> Iterator[list[str]]:
    """The flags that an example gives a command unless told otherwise, `adapt=${ADAPT---plain …}` or `ADAPT="…"`."""
    for name, flags in re.findall(rf'\b({"|".join(FLAGS_OF)})=(?:\$\{{\w+-|")(-[^}}"]*)', path.read_text(), flags=re.I):
        yield [FLAGS_OF[name.lower()], *flags.split()]


def deviations(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of deviations."""
    return tomllib.loads(path.read_text()).get("row", [])


FLAGS_OF = {"adapt": "adapt", "train": "train-sharer", "gate": "gate", "assemble": "assemble", "prime": "prime"}
"""The examples' variables → the commands whose flags they hold."""
SHOWN = {
    f"{path.name}: {' '.join(words)}": words
    for path in PLACES
    for words in [*(words for line in script(path) for words in commands_of(line)), *default_flags(path)]
}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= README_LINES


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_names_every_command(name: str) -> None:
    assert f"`{name}`" in README or f"perpcs {name}" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_readme_links_every_page(page: Path) -> None:
    assert f"(docs/{page.name})" in README


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


DEVIATIONS = [row for path in sorted((ROOT / "docs" / "deviations").glob("*.toml")) for row in deviations(path)]


@pytest.mark.parametrize("row", DEVIATIONS, ids=lambda row: row["what"])
def test_a_deviation_is_switched_or_explained(row: dict[str, Any]) -> None:
    assert set(row.get("switch", [])) <= set(declared())
    assert not (row.get("switch") and row.get("unavailable"))
    assert "|" not in "".join(map(str, row.values())), "it would end a cell of the table"


@pytest.mark.parametrize("paper", get_args(Paper))
@pytest.mark.parametrize("preset", get_args(Preset))
def test_what_a_preset_changes_is_among_the_deviations(paper: Paper, preset: Preset) -> None:
    listed = {path for row in DEVIATIONS for path in row.get("switch", [])}
    own, other = (
        flat(msgspec.to_builtins(make_settings(published_settings("movie_tagging", paper, name), {"model": "m"})))
        for name in ("perpcs", preset)
    )
    assert {path for path in other if other[path] != own[path]} - {"preset"} <= listed


def test_every_attack_has_its_test() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    for row in rows[1:]:
        path, name = re.findall(r"`(\S+)::(\w+)`", row)[0]
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), row


@pytest.mark.parametrize("name", SHOWN)
def test_a_shown_command_parses(name: str) -> None:
    words = SHOWN[name]
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="perpcs")
    while words and hasattr(command, "get_command"):
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
    command.make_context("perpcs", list(words))


def test_the_own_task_of_the_page_can_be_followed(tiny_dir: Path, tmp_path: Path) -> None:
    """Its file, its data and its commands, with the tiny model."""
    section = (ROOT / "docs" / "tasks.md").read_text().partition("## Own tasks")[2].partition("\n## ")[0]
    for kind, name in (("toml", "books.toml"), ("csv", "books.csv")):
        (block,) = re.findall(rf"^```{kind}\n(.*?)^```", section, flags=re.S | re.M)
        (tmp_path / name).write_text(block)
    (lines,) = re.findall(r"^```bash\n(.*?)^```", section, flags=re.S | re.M)
    said = []
    for line in lines.splitlines():
        done = Shell(tmp_path, tiny_dir)(line.partition("#")[0].removeprefix("perpcs "), PERPCS_MODEL=str(tiny_dir))
        assert done.exit_code == 0, f"{line}\n{done.stderr}"
        said.append(done.stdout)
    assert said[0].startswith("book_rating: 6 labels, at most 4 tokens; mae and rmse\n")
    assert (tmp_path / "books" / "book_rating.task.toml").exists()
    assert "1 users\t2 history items\t1 queries (1 with an answer)" in said[2]
    assert "Blurb: A village counts its boats." in said[3]


def test_the_tutorial_can_be_followed(tiny_dir: Path, tmp_path: Path) -> None:
    """Its `bash` blocks, in order, in an empty directory; the tiny model stands in the cache for the two it fetches."""
    for name in CATALOGUE:
        place = tmp_path / "cache" / "models" / name
        shutil.copytree(tiny_dir, place)
        (place / CARD).write_text("{}")
    here = tmp_path / "home"
    here.mkdir()
    count = 0
    for line in script(TUTORIAL, "bash"):
        if line.startswith("cd "):
            here /= line.removeprefix("cd ").strip()
        for words in commands_of(line):
            count += 1
            done = Shell(here, tiny_dir)(words, PERPCS_CACHE=str(tmp_path / "cache"), PERPCS_DEVICE="cpu")
            assert done.exit_code == 0, f"perpcs {' '.join(words)}\n{done.stderr}"
    assert count >= 10
