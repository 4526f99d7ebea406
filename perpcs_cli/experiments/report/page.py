"""The page as HTML: one file without anything outside of it, readable without scripts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.experiments.report.blocks import Page

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


def render(page: Page, provenance: Provenance) -> bytes:
    """The whole file. The same page gives the same bytes."""
    template = _environment().get_template("page.html.jinja")
    origin = msgspec.json.encode(provenance, order="sorted").decode()
    return template.render(page=page, provenance=origin, tool=provenance.tool, style=_style()).encode(errors="replace")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["plain"] = plain
    made.filters["spoken"] = spoken
    return made


def _style() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Text without control characters, which HTML cannot hold; line ends stay."""
    return "".join(one if one == "\n" or one.isprintable() or ord(one) > 0x9F else " " for one in text)


def spoken(text: str) -> list[tuple[bool, str]]:
    """Words, and the commands between back quotes: [(whether it is a command, its text)]."""
    return [(number % 2 == 1, part) for number, part in enumerate(text.split("`")) if part]
