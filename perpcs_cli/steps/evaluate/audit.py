"""Look through a pool, the recipes over it and the attacks' summaries for what they give away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.mia import summaries_in
from perpcs_cli.artifacts.packed_recipes import files_in
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pools.pseudonyms import pseudonym
from perpcs_cli.artifacts.pools.secret import existing_secret
from perpcs_cli.artifacts.settings import read_settings
from perpcs_cli.artifacts.users import User, UserFile
from perpcs_cli.steps.workspace import Places, stored_task
from perpcs_cli.tasks.lamp_queries import WORDINGS
from perpcs_cli.tasks.spec import get_task, shipped_tasks

if TYPE_CHECKING:
    from perpcs_cli.artifacts.pools.audit import Audit


def audit(
    places: Places,
    *,
    pool: Path | None = None,
    recipes: Sequence[Path] | None = None,
    summaries: Sequence[Path] | None = None,
    users_file: Path | None = None,
) -> Audit:
    """The report on a pool. `recipes`: places of recipes; `summaries`: of attacks, files or directories."""
    from perpcs_cli.artifacts.pools.audit import audit_pool

    opened = open_pool(pool or places.pool)
    file = users_file or places.users
    users = UserFile(file) if users_file or file.exists() else None
    found = places.recipe_places if recipes is None else recipes
    return audit_pool(
        opened,
        recipes=sorted({file for place in found for file in files_in(place)}),
        summaries=summaries_in(summaries if summaries is not None else [places.mia] if places.mia.is_dir() else []),
        users=users,
        ids=_ids(opened, places, users or ()),
        known=_known(places),
    )


def _known(places: Places) -> set[str]:
    """The prompts, labels and names of all tasks, and of an own one of the workspace: texts that are no user's own."""
    tasks = list(shipped_tasks().values())
    if places.settings_file.exists() and (name := stored_task(places.root, read_settings(places.settings_file))):
        tasks.append(get_task(name))
    return {text for task in tasks for text in task.texts} | {wording.form for wording in WORDINGS.values()}


def _ids(pool: OpenPool, places: Places, users: Iterable[User]) -> list[str]:
    """The ids that the pool's pseudonyms stand for, as far as the secret tells."""
    secret = existing_secret(places.root) if pool.manifest.pseudonyms else None
    if not secret:
        return []
    everyone = {*(user.user_id for user in users), *(path.name for path in places.sharers.glob("*"))}
    return [name for name in everyone if pseudonym(secret, name) in pool.places]
