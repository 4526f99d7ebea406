"""PEFT retrieval and other ways to merge similar sharers' LoRAs without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.recipe import Method, Recipe
from perpcs_cli.artifacts.settings import Merge, Weighting
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.job import Outcome, run
from perpcs_cli.steps.personalize.recipes import RecipePlace, check_shard, make_recipe
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.similar_sharers import open_similar
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace

TOGETHER = 256
"""Recipes that are written at once."""
METHODS: dict[Weighting, Method] = {"softmax": "retrieve", "uniform": "uniform", "single": "single"}


def retrieve(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    weights: Weighting = "softmax",
    similar: int | None = None,
    temperature: float = 1.0,
    merge: Merge | None = None,
    pool: Path | None = None,
    embeddings: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Recipe]]:
    """Write OUT/USER.json, or lines of OUT.jsonl, of each target user: the whole LoRAs of the most similar sharers.

    `similar` of them, weighted by the softmax of the cosines of their embeddings / `temperature` (PEFT retrieval),
    equally, or the nearest alone. `similar` and `merge` are those of the section `prime` by default. Raises UsageError
    for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise UsageError(f"the temperature must be above 0, and is {temperature}", where="--temperature")
    users = who.mine(who.select(workspace, "target"))
    near = open_similar(workspace, pool, embeddings)
    method = METHODS[weights]
    rule = merge or workspace.settings.prime.merge
    count = 1 if weights == "single" else similar or workspace.settings.prime.similar

    from perpcs_cli.methods.per_pcs.similarity import weigh
    from perpcs_cli.methods.prime.weight_space import make_space

    mixes = {user.user_id: weigh(near.nearest(user, count), weights, temperature) for user in users}
    settings = {"weights": weights, "top_k": count, "temperature": temperature, "merge": rule}
    origins = {
        user.user_id: workspace.provenance(
            "retrieve",
            {**settings, "mix": dict(mixes[user.user_id])},
            {
                # The profile is not part of what is compared.
                "user": hashing.digest_value(msgspec.structs.replace(user, profile=None)),
                "encoder": near.embeddings.card.provenance.inputs["encoder"],
            },
            near.pool.manifest.base,
        )
        for user in users
    }
    place = RecipePlace(out or workspace.recipes_of(method), near.pool, origins, report)
    check_shard(place.place, who.shard)
    outputs = [place.output(name, origin) for name, origin in origins.items()]

    def make(todo: Any, keep: Any) -> None:
        for first in range(0, len(todo), TOGETHER):
            some, recipes = todo[first : first + TOGETHER], []
            for one in some:
                mix = mixes[one.name]
                space = make_space(near.pool, [sharer for sharer, _ in mix])
                named = space.named([weight for _, weight in mix])
                recipes.append(make_recipe(one.name, method, rule, near.pool, named, origins[one.name]))
            place.add(recipes)
            for one, recipe in zip(some, recipes, strict=True):
                keep(one, recipe)
        place.end()

    return run(outputs, make, place=place.place, shard=who.shard, force=force, dry_run=dry_run, report=report)
