"""The command lines that make recipes again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer
from helpers import provenance

from perpcs_cli.artifacts.pools.revocation import Lost
from perpcs_cli.cli.main import app
from perpcs_cli.steps.share.remake import command_line
from perpcs_cli.tasks.published_settings import published_settings

PUBLISHED = {"retrieve": 1, "random_history": 0, "profile": None}
SHOWN = [
    (PUBLISHED, []),
    ({"retrieve": 0, "random_history": 0, "profile": False}, ["--plain"]),
    ({"retrieve": 2, "random_history": 0, "profile": True}, ["--retrieve=2", "--with-profile"]),
    ({"retrieve": 0, "random_history": 3, "profile": False}, ["--random-history=3"]),
]
ASSEMBLE = {"top_k": 3, "batch_size": 16, "top_p": None, "sample": True, "merge": "factor", "temperature": 0.5}
BASE = {"task": "movie_tagging", "max_length": 512}


def lost(method: str, settings: dict[str, object], directory: Path = Path("r")) -> Lost:
    origin = msgspec.structs.replace(provenance(seed=7), settings={**BASE, **settings})
    return Lost(path=str(directory / "u1.json"), user_id="u1", method=method, provenance=origin)


def line_of(one: Lost, sharers: int) -> tuple[str, ...]:
    return command_line(one, Path("w"), Path("w/pool.json"), sharers)


def parses(line: tuple[str, ...]) -> dict[str, object]:
    command = typer.main.get_command(app).get_command(None, line[0])
    return command.make_context("perpcs", list(line[1:])).params


@pytest.mark.parametrize(("shown", "flags"), SHOWN)
def test_assemble(tmp_path: Path, shown: dict[str, object], flags: list[str]) -> None:
    line = line_of(lost("per-pcs", {"assemble": ASSEMBLE, "prompts": shown}, tmp_path / "r"), 2)
    begin = f"assemble --workspace w --pool w/pool.json --user u1 --out {tmp_path}/r"
    settings = "--task=movie_tagging --max-length=512 --seed=7"
    section = "--top-k=2 --batch-size=16 --sample --merge=factor --temperature=0.5"
    assert line == (*begin.split(), *settings.split(), *section.split(), *flags)
    found = parses(line)
    assert (found["top_k"], found["sample"], found["seed"], found["user"]) == (2, True, 7, ["u1"])


def test_no_more_similar_sharers_than_there_are() -> None:
    settings = {"assemble": {**ASSEMBLE, "similar": 5}, "prompts": PUBLISHED}
    assert [parses(line_of(lost("per-pcs", settings), count))["similar"] for count in (9, 4)] == [5, 4]
    assert not any("similar" in word for word in line_of(lost("per-pcs", {**settings, "assemble": ASSEMBLE}), 4))


def test_prime_and_retrieve() -> None:
    published = published_settings("movie_tagging", "prime")["prime"]
    settings = {**published, "bounds": [-1.5, 1.5], "popsize": None, "granularity": "layer"}
    found = parses(line_of(lost("prime", {"prime": settings, "alpha": 0.2, "prompts": SHOWN[2][0]}), 9))
    assert (found["alpha"], found["bounds"], found["granularity"]) == ("0.2", "-1.5,1.5", "layer")
    assert (found["similar"], found["retrieve"], found["with_profile"]) == (published["similar"], 2, True)
    retrieved = {"weights": "softmax", "top_k": 5, "temperature": 1.0, "merge": "product", "mix": {}}
    found = parses(line_of(lost("retrieve", retrieved), 4))
    assert (found["similar"], found["weights"], found["temperature"]) == (4, "softmax", 1.0)


def test_nobody_is_left() -> None:
    assert line_of(lost("per-pcs", {}), 0) == ()
