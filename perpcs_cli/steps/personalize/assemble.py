"""From a target user's history to a recipe, by gate scores (Per-PCs)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.pool import check_base, check_layers, open_pool
from perpcs_cli.artifacts.pools.pseudonyms import own_names
from perpcs_cli.artifacts.pools.secret import existing_secret
from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.artifacts.users import User, newest
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, run
from perpcs_cli.steps.personalize.recipes import RecipePlace, check_shard, make_recipe
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.similar_sharers import open_similar
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.prompts import PUBLISHED, Prompt, Shown, digest


def assemble(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    shown: Shown = PUBLISHED,
    pool: Path | None = None,
    embeddings: Path | None = None,
    base_users: Sequence[str] = (),
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Recipe]]:
    """Write OUT/USER.json, or lines of OUT.jsonl, of each target user, by the section `assemble` of the settings.

    The history runs through the model once; at each linear layer gate scores choose and weight pieces, which shape
    what the next layer sees. A user who shares is not offered its own pieces, and with `assemble.similar` a user is
    offered only those of the sharers that are most similar by `embeddings`, as PriME chooses them. With
    `assemble.contrast` the scores are of what differs from `base_users`, by default those of splits/base.txt, drawn by
    seed. `shown`: what the history's examples show.
    """
    settings = workspace.settings
    users = who.select(workspace, "target")
    opened = open_pool(pool or workspace.pool)
    offered = _offered(workspace, users, pool, embeddings)
    similar = settings.assemble.similar
    if settings.assemble.top_p is None and settings.assemble.top_k > (similar or len(opened.ids)):
        offer = f"similar is {similar}" if similar else f"the pool has {len(opened.ids)} sharers"
        raise UsageError(
            f"top-k is {settings.assemble.top_k} and {offer}", where=opened.path, hint="Give a smaller --top-k."
        )
    if not opened.manifest.gates:
        raise DataError(
            "the pool was built without gates",
            where=opened.path,
            hint="Train them with `perpcs gate`, and build it again with `perpcs pool build --force`.",
        )
    prompts = {
        user.user_id: training_prompts(
            workspace.task, newest(user, settings.assemble.recent), shown, seed=settings.seed
        )
        for user in users
    }
    others = _others(workspace, replace(who, ids=base_users, shard=None), shown)
    model = StepModel(workspace, report)
    check_base(opened, model.fingerprint, settings.model)
    changes = {"assemble": settings.assemble, "prompts": shown, "max_length": settings.max_length, **model.describe()}
    origins = {
        name: workspace.provenance(
            "assemble",
            changes,
            {
                "examples": digest(some),
                **({"contrast": digest(others)} if others else {}),
                **({"offered": hashing.digest_value(sorted(offered[name]))} if name in offered else {}),
            },
            model.fingerprint,
        )
        for name, some in prompts.items()
    }
    place = RecipePlace(out or workspace.recipes, opened, origins, report)
    check_shard(place.place, who.shard)
    # Who shares a pass is decided over all users, so that a shard's recipes are those of the whole command.
    outputs = [place.output(name, origins[name]) for name in who.mine(list(origins))]

    def make(todo: Any, keep: Any) -> None:
        from perpcs_cli.methods.per_pcs.assembler import Assembler
        from perpcs_cli.methods.per_pcs.assembly import assemble as assemble_all
        from perpcs_cli.methods.per_pcs.common_activations import common_activations
        from perpcs_cli.methods.per_pcs.history_batches import make_batches
        from perpcs_cli.model.engine.piece_cache import PieceCache

        check_layers(opened, model.base.shapes)
        left = {output.name: output for output in todo}
        secret = existing_secret(workspace.root)
        batches = []
        for name in origins:
            rows = model.encode(prompts[name], who=f"user {name}")
            away = own_names(opened, secret, name) & opened.places.keys()
            if name in offered:
                away |= opened.places.keys() - offered[name]
            places = sorted(opened.places[one] for one in away)
            batches += make_batches(name, rows, settings.assemble, places, seed=settings.seed)
        cache = PieceCache(model.base, opened.adapter)
        limit = settings.predict.batch_tokens
        rows = model.encode(others, who="the base users")
        common = common_activations(model.base, rows, settings.assemble.scoring, batch_tokens=limit)
        assembler = Assembler(model.base, opened, cache, settings.assemble, settings.seed, common)
        with report.progress("assembling", len(left)) as bar:

            def done(user_id: str, weights: dict[str, list[tuple[int, float]]]) -> None:
                named = {module: [(opened.ids[i], w) for i, w in mix] for module, mix in weights.items()}
                merge = settings.assemble.merge
                recipe = make_recipe(user_id, "per-pcs", merge, opened, named, origins[user_id])
                place.add([recipe])
                keep(left[user_id], recipe)
                bar.advance(1, user_id)

            assemble_all(assembler, batches, batch_tokens=limit, wanted=left, done=done)
        place.end()

    outcomes = run(outputs, make, place=place.place, shard=who.shard, force=force, dry_run=dry_run, report=report)
    if dry_run:
        model.check_room(prompts, outcomes)
        if others and any(one.state == "to do" for one in outcomes):
            model.encode(others, who="the base users")
    return outcomes


def _offered(
    workspace: Workspace, users: Sequence[User], pool: Path | None, embeddings: Path | None
) -> dict[str, set[str]]:
    """The sharers on offer to each user by `assemble.similar`; nothing where all are."""
    count = workspace.settings.assemble.similar
    if count is None:
        return {}
    near = open_similar(workspace, pool, embeddings)
    return {user.user_id: {one.user_id for one in near.nearest(user, count)} for user in users}


def _others(workspace: Workspace, who: Who, shown: Shown) -> list[Prompt]:
    """The examples of base users, drawn by seed, for `assemble.contrast`; none where it is 0."""
    wanted, seed = workspace.settings.assemble.contrast, workspace.settings.seed
    if not wanted:
        return []
    if not who.ids and not workspace.split("base"):
        hint = "Draw them with `perpcs split`, or give --base-users."
        raise UsageError("there are no base users to tell from", where="--contrast", hint=hint)
    users = [user for user in who.select(workspace, "base") if user.history]
    random.Random(hashing.derive_seed(seed, "contrast")).shuffle(users)
    each = -(-wanted // max(1, len(users)))
    examples = (training_prompts(workspace.task, newest(user, each), shown, seed=seed) for user in users)
    return list(islice(chain.from_iterable(examples), wanted))
