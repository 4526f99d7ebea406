"""What the commands that make recipes show of them."""

from __future__ import annotations

from collections.abc import Sequence

from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcomes
from perpcs_cli.steps.job import Outcome


def show_recipes(console: Console, outcomes: Sequence[Outcome[Recipe]]) -> None:
    """How many sharers each recipe uses, and its size; with --json which sharers."""
    sizes = {one.name: one.path.stat().st_size for one in outcomes if one.value}
    show_outcomes(
        console,
        outcomes,
        lambda one: [f"{len(one.value.sharers)} sharers", f"{sizes[one.name]} bytes"] if one.value else [],
        lambda one: {"sharers": one.value.sharers, "bytes": sizes[one.name]} if one.value else {},
    )
