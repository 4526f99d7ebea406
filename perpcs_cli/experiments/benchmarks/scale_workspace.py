"""A workspace of many sharers and users over a tiny random model, for measuring what grows with their number."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.recipe import recipe_bytes
from perpcs_cli.artifacts.users import User
from perpcs_cli.experiments.benchmarks.setup import random_sharer
from perpcs_cli.steps.workspace import Places, Workspace, open_workspace
from perpcs_cli.tasks.synthetic_users import make_users

TEXTS = 64
"""Users whose texts differ; the next ones repeat them."""
EMBEDDING = 32
"""Numbers of a user's embedding."""
RANK = 4
MIX = 3
"""Sharers of a recipe."""
MANY, PACKED = "many", "many.jsonl"


def many_users(count: int, items: int) -> Iterator[User]:
    """Users with ids of their own, whose texts repeat after the first TEXTS."""
    texts = make_users(min(count, TEXTS), items, 1, 0)
    for number in range(count):
        like = texts[number % len(texts)]
        queries = [msgspec.structs.replace(one, id=f"{one.id}-{number}") for one in like.queries]
        yield msgspec.structs.replace(like, user_id=name_of(number), queries=queries)


def name_of(number: int) -> str:
    """A user's id."""
    return f"u{number:07d}"


def make_workspace(root: Path, model: Path, *, sharers: int, targets: int, items: int) -> Workspace:
    """A workspace with `sharers` untrained sharers and `targets` other users, all of them embedded at random."""
    import torch

    from perpcs_cli.artifacts.embeddings import write_embeddings
    from perpcs_cli.artifacts.io import hashing, typed_files
    from perpcs_cli.artifacts.io.provenance import Provenance
    from perpcs_cli.artifacts.users import write_users
    from perpcs_cli.steps.base import StepModel
    from perpcs_cli.steps.init_workspace import init
    from perpcs_cli.steps.report import SILENT
    from perpcs_cli.steps.similar_sharers import embedded_texts

    init(root, task="news_headline", model=str(model), device="cpu", dtype="float32")
    workspace = open_workspace(root)
    users = list(many_users(targets + sharers, items))
    write_users(workspace.users, users)
    chosen = [user.user_id for user in islice(users, targets)]
    typed_files.write_text(workspace.splits / "target.txt", "".join(f"{name}\n" for name in chosen))
    generator = torch.Generator().manual_seed(0)
    vectors = {user.user_id: torch.randn(EMBEDDING, generator=generator) for user in users}
    digests = {user.user_id: hashing.digest_value(embedded_texts(workspace.task, user)) for user in users}
    provenance = Provenance(command="bench", settings={}, seed=0, inputs={"encoder": "random"})
    write_embeddings(workspace.embeddings(), vectors, digests, "random", provenance)
    base = StepModel(workspace, SILENT).base
    workspace.sharers.mkdir()
    for user in islice(users, targets, None):
        random_sharer(workspace.sharers / user.user_id, base, RANK, generator)
    return workspace


def write_source(path: Path, *, users: int, items: int) -> None:
    """A users.jsonl to be imported."""
    from perpcs_cli.artifacts.io import typed_files

    typed_files.write_jsonl(path, many_users(users, items))


def make_recipes(places: Places) -> None:
    """As many recipes as the pool has sharers, of three of them each, in files of their own and packed."""
    from perpcs_cli.artifacts.io.provenance import Provenance
    from perpcs_cli.artifacts.packed_recipes import write_packed
    from perpcs_cli.artifacts.pool import open_pool
    from perpcs_cli.steps.personalize.recipes import make_recipe

    pool = open_pool(places.pool)
    origin = Provenance(command="bench", settings={}, seed=0)
    names = [*pool.ids, *pool.ids[:MIX]]
    recipes = []
    for place in range(len(pool.ids)):
        mix = [(name, 1 / MIX) for name in names[place : place + MIX]]
        weights = dict.fromkeys(pool.modules, mix)
        recipes.append(make_recipe(name_of(place), "per-pcs", "product", pool, weights, origin))
    write_packed(places.root / PACKED, recipes)
    (places.root / MANY).mkdir(exist_ok=True)
    for recipe in recipes:
        (places.root / MANY / f"{recipe.user_id}.json").write_bytes(recipe_bytes(recipe))


def one_sharer(places: Places) -> str:
    """The first sharer, by its id."""
    return min(path.name for path in places.sharers.iterdir())
