"""Whose searches run in step: as many users' as keep the device busy, and as their sharers' pieces have room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.steps.personalize.prime_search import UserSearch
from perpcs_cli.steps.personalize.recipes import RecipePlace
from perpcs_cli.steps.personalize.search_result import Found
from perpcs_cli.steps.report import Bar

if TYPE_CHECKING:
    from perpcs_cli.model.loading.base import Base

BUSY = 4
"""A round is large enough when its rows are so many times what a pass costs beside its rows (`drafts.fixed_cost`)."""


def groups(searches: Sequence[UserSearch], base: Base, pool: OpenPool) -> list[list[UserSearch]]:
    """Searches that run in step, in the order of the searches.

    A group gets another user while a round of it has fewer than `BUSY` times the rows that a pass costs, and while the
    pieces of its sharers stay in memory together. It depends on all searches, whether finished or not, on the model and
    the kind of device, and not on what is free: a run that was stopped goes on with the same groups.
    """
    from perpcs_cli.model.engine.drafts import fixed_cost
    from perpcs_cli.model.engine.piece_cache import CACHE_BYTES

    enough = BUSY * fixed_cost(base.device, base.dtype)
    size = pool.manifest.rank * sum(map(sum, pool.manifest.modules.values())) * base.dtype.itemsize
    found: list[list[UserSearch]] = []
    rows, sharers = enough, set[str]()
    for one in searches:
        together = sharers.union(one.space.sharers)
        if rows >= enough or size * len(together) > CACHE_BYTES:
            found.append([])
            rows, together = 0, set(one.space.sharers)
        found[-1].append(one)
        rows, sharers = rows + one.generation_rows, together
    return found


def run_group(
    group: Sequence[UserSearch], places: Mapping[float, RecipePlace], bar: Bar, *, force: bool
) -> Iterator[Found]:
    """Search for users in step, and write the recipes of each α into its place: what was found.

    Raises DataError where a trace is of other settings.
    """
    from perpcs_cli.methods.prime.engine import make_engine
    from perpcs_cli.methods.prime.in_step import search_in_step

    if not group:
        return
    first = group[0]
    settings = first.workspace.settings

    def advance(name: str, count: int, best: float) -> None:
        bar.advance(count, f"{name}: best utility {best:.3f}")

    with ExitStack() as locks:
        # Searches with another α, into other recipes, share the traces; all take them in the same order.
        for one in sorted(group, key=lambda one: one.trace):
            locks.enter_context(locked(one.trace, one.report.note))
        engine = make_engine(
            first.model.base,
            first.pool.adapter,
            [one.history() for one in group],
            first.predict,
            settings.prime.merge,
            seed=settings.seed,
        )
        users = [
            (one.search(partial(advance, one.user.user_id)), one.evaluator(one.open_trace(force=force)))
            for one in group
        ]
        choices = search_in_step(users, engine)
    for one, some in zip(group, choices, strict=True):
        yield from one.write(some, places)
