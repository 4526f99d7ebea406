"""What the commands that make recipes show of them."""

from __future__ import annotations

from collections.abc import Sequence

from perpcs_cli.artifacts.recipe import Recipe, mean_weights, recipe_bytes
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcomes
from perpcs_cli.errors import shortened
from perpcs_cli.steps.job import Outcome


def made_of(weights: dict[str, float]) -> str:
    """A recipe's largest mean weights, with whose they are."""
    return shortened([f"{weight:.2f} {sharer}" for sharer, weight in weights.items()]) or "the base"


def show_recipes(console: Console, outcomes: Sequence[Outcome[Recipe]]) -> None:
    """How many sharers each recipe uses, its size and its largest weights; with --json all of them."""
    sizes = {one.name: len(recipe_bytes(one.value)) for one in outcomes if one.value}
    weights = {one.name: mean_weights(one.value) for one in outcomes if one.value}

    def columns(one: Outcome[Recipe]) -> list[str]:
        return [f"{len(weights[one.name])} sharers", f"{sizes[one.name]} bytes", made_of(weights[one.name])]

    def details(one: Outcome[Recipe]) -> dict[str, object]:
        if one.name not in sizes:
            return {}
        return {"sharers": list(weights[one.name]), "weights": weights[one.name], "bytes": sizes[one.name]}

    show_outcomes(console, outcomes, columns, details)
