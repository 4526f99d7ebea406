"""What the commands that make recipes show of them."""

from __future__ import annotations

from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.steps.job import Outcome


def recipe_columns(outcome: Outcome[Recipe]) -> list[object]:
    """How many sharers a recipe uses, and its size."""
    if outcome.value is None:
        return []
    return [f"{len(outcome.value.sharers)} sharers", f"{outcome.path.stat().st_size} bytes"]
