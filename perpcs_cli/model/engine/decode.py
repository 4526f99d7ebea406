"""Decoding of rows that carry different recipes: exact, in packed passes; rows come and go one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import torch

from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.model.engine.batching import Beginnings, Encoded
from perpcs_cli.model.engine.decoded_rows import ALL, Row, Techniques, parts, unique
from perpcs_cli.model.engine.drafts import NO_DRAFT, Drafts, Known, fixed_cost
from perpcs_cli.model.engine.lora_layer import attached
from perpcs_cli.model.engine.memory import release, too_large, watched
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.sampling import Sampling, drawing
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.packed.rows import Rows
from perpcs_cli.model.transfers import Upload

LEAST_PREFIX = 8
"""A shorter common beginning is not worth the trouble."""
PATIENCE = 0.25
"""Of the places, what may be free while rows wait to come in together."""
UNIT = 8
"""How many times the rows that are in memory at a time make a unit, which a stopped run does as a whole."""


def generate(
    base: Base,
    recipes: RecipeRouter,
    rows: Sequence[tuple[Encoded, int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    batch_rows: int,
    merge: Merge = "product",
    sampling: Sampling | None = None,
    drafts: Drafts | None = None,
    techniques: Techniques = ALL,
    known: Collection[int] = (),
    done: Callable[[list[int], list[list[int]]], None] = lambda indices, tokens: None,
    heard: Callable[[list[int], list[int]], None] = lambda indices, tokens: None,
) -> list[list[int]]:
    """The continuation of each row, (prompt, index of its recipe), without the end-of-sequence token: the most
    probable token each time, or drawn as `sampling` says.

    In float32 these are the tokens that the model with the recipe merged into its weights says, row by row. At most
    `batch_rows` rows and `batch_tokens` tokens, new ones included, are in memory at a time, but always one row.
    `drafts` are known answers, and take up the ones found here. `done(indices, tokens)` is called with the rows that
    have ended, after every pass in which any did, and `heard(indices, tokens)` with the answer so far of every row that
    a pass has run; they must not run the model.

    Without `drafts` the rows are divided into units that know nothing of each other and do not depend on `known`, the
    rows whose answers are there. A unit of known rows is passed over, and a unit with others is run whole: so a run
    that goes on computes, bit for bit, what one that was never stopped would.

    Where the device's memory runs out, fewer rows go on. Raises PerpcsError for a row that does not fit alone.
    """
    outputs: list[list[int]] = [[] for _ in rows]

    def ended(found: list[Row], drafts: Drafts) -> None:
        for row in found:
            drafts.add(row.prompt, row.output)
            for index in row.asked:
                outputs[index] = list(row.output)
        indices = sorted(index for row in found for index in row.asked)
        done(indices, [outputs[index] for index in indices])

    for part in parts(unique(recipes, rows, sampling), max_new_tokens, batch_tokens, batch_rows, techniques):
        capacity = max(len(row.prompt) for row in part) + max_new_tokens
        places = max(1, min(batch_rows, batch_tokens // capacity, len(part)))
        size = UNIT * places if drafts is None else len(part)
        for start in range(0, len(part), size):
            unit = part[start : start + size]
            if all(index in known for row in unit for index in row.asked):
                continue
            engine = _Engine(
                base, recipes, max_new_tokens, Drafts() if drafts is None else drafts, techniques, sampling, heard
            )
            with packed(base), attached(base, recipes, merge=merge):
                if row := engine.run(unit, places, capacity, ended):
                    raise too_large([rows[row.asked[0]][0]])
    return outputs


@dataclass
class _Engine:
    """Runs rows to their ends. `alive` rows are in the buffers, each at the place of its number in the list."""

    base: Base
    recipes: RecipeRouter
    limit: int
    drafts: Drafts
    techniques: Techniques
    sampling: Sampling | None
    heard: Callable[[list[int], list[int]], None]

    def __post_init__(self) -> None:
        self.fixed = fixed_cost(self.base.device, self.base.dtype)

    def run(
        self, rows: list[Row], places: int, capacity: int, ended: Callable[[list[Row], Drafts], None]
    ) -> Row | None:
        """Decode rows, at most `places` at a time, or fewer where the memory does not suffice.

        `ended` gets those that a pass has brought to their end. Returns a row that does not fit alone.
        """
        while rows:
            with suppress(torch.OutOfMemoryError), watched():
                self._run(rows, places, capacity, ended)
            rows = [row for row in rows if not row.ended]
            places = min(places, len(rows))
            if places == 1:
                return rows[0]
            places //= 2
            for row in rows:
                row.computed = 0
            release()
        return None

    def _run(self, rows: list[Row], places: int, capacity: int, ended: Callable[[list[Row], Drafts], None]) -> None:
        self.recipes.begin()
        cache = Rows(self.base, places, capacity)
        alive: list[Row] = []
        waiting = rows
        while waiting or any(not row.ended for row in alive):
            waiting = self._admit(cache, waiting, alive, places)
            running = [(place, row) for place, row in enumerate(alive) if not row.ended]
            self._pass(cache, running, waiting=len(waiting) > places - len(alive))
            if gone := [row for _, row in running if row.ended]:
                alive = _leave(cache, alive, _kept(alive, waiting, places) if self.techniques.prefix else [])
                ended(gone, self.drafts)
                for row in gone:
                    # What drafts were made from is many times as large as the answer.
                    row.known, row.draft = None, NO_DRAFT

    def _admit(self, cache: Rows, waiting: list[Row], alive: list[Row], places: int) -> list[Row]:
        """Let rows in as far as there is place, and return those that still wait.

        A row takes over the keys and values of what its prompt has in common with one of its recipe that is in.
        One that has more in common with a row that comes in now waits for a pass, if together such rows save more
        than that pass costs.
        """
        first, rest = waiting[: places - len(alive)], waiting[places - len(alive) :]
        if cache.recordings and rest and self._too_few(first, alive, places):
            return waiting
        recipes = {row.recipe for row in first}
        there = Beginnings((row.recipe, row.prompt, place) for place, row in enumerate(alive) if row.recipe in recipes)
        found = [there.closest(row.recipe, row.prompt) if self.techniques.prefix else (0, 0) for row in first]
        later = self._later(first, [common for _, common in found]) if self.techniques.prefix else set()
        copies = []
        for index, (row, (place, common)) in enumerate(zip(first, found, strict=True)):
            if index not in later:
                if common >= LEAST_PREFIX:
                    row.computed = common
                    copies.append((place, len(alive)))
                alive.append(row)
        cache.copy(copies, max((row.computed for row in first), default=0))
        return [first[index] for index in sorted(later)] + rest

    def _too_few(self, coming: list[Row], alive: list[Row], places: int) -> bool:
        """Whether rows should wait for more that wait to come in with them, where only passes without them are played.

        They do while others run, little place is free, and they bring fewer tokens than a pass costs.
        """
        running = sum(not row.ended for row in alive)
        few = len(coming) < PATIENCE * places and sum(len(row.prompt) for row in coming) < self.fixed
        return few and running >= len(coming)

    def _later(self, rows: list[Row], had: list[int]) -> set[int]:
        """The numbers of the rows that should wait for what others of them compute; `had` is there without waiting."""
        leaders = Beginnings()
        saved: dict[int, int] = {}
        for index, row in enumerate(rows):
            _, coming = leaders.closest(row.recipe, row.prompt)
            if coming >= had[index] + LEAST_PREFIX:
                saved[index] = coming - had[index]
            else:
                leaders.add(row.recipe, row.prompt, index)
        return set(saved) if sum(saved.values()) > self.fixed else set()

    def _pass(self, cache: Rows, running: list[tuple[int, Row]], *, waiting: bool) -> None:
        """One pass: feed each row what is known and a draft, and take over what the model says."""
        rows = [row for _, row in running]
        if self.techniques.drafts:
            known = [(self._known(row), row.output) for row in rows]
            plan = self.drafts.plan(known, self.limit, self.fixed, waiting=waiting)
            for row, draft in zip(rows, plan, strict=True):
                row.draft = draft
        new, starts = [row.new for row in rows], [row.computed for row in rows]
        lengths, counts = [len(tokens) for tokens in new], [len(row.draft.tokens) + 1 for row in rows]
        # Rows that have come in have more to be read than to be said.
        shape = cache.shape(starts, lengths) if lengths == counts else None
        upload = Upload(self.base.device)
        self.recipes.use([row.recipe for row in rows], lengths, upload, shape.tokens if shape else None)
        layout = cache.plan([place for place, _ in running], starts, new, counts, upload, shape)
        places = [(row.stream, len(row.output), count) for row, count in zip(rows, counts, strict=True)]
        choices = iter(cache.run(layout, drawing(self.sampling, places, upload), self.recipes.state))
        for row, count in zip(rows, counts, strict=True):
            self._accept(row, list(islice(choices, count)))
            self.heard(row.asked, row.output)

    def _known(self, row: Row) -> Known:
        if row.known is None:
            row.known = self.drafts.of(row.prompt)
        return row.known

    def _accept(self, row: Row, chosen: list[int]) -> None:
        """`chosen`: what the model says after the known tokens, and then after each token of the draft."""
        draft = row.draft.tokens
        right = next((i for i, token in enumerate(draft) if chosen[i] != token), len(draft))
        row.computed = len(row.prompt) + len(row.output) + right
        self.drafts.learn(row.draft, right)
        for token in chosen[: right + 1]:
            row.ended = token in self.base.stop
            if row.ended:
                return
            row.output.append(token)
        row.ended = len(row.output) == self.limit


def _kept(alive: list[Row], waiting: list[Row], places: int) -> list[Row]:
    """Rows that have ended but are still needed: for each recipe that waits and has no other row, one."""
    staying = [row for row in alive if not row.ended]
    wanted = {row.recipe for row in waiting} - {row.recipe for row in staying}
    last = {row.recipe: row for row in alive if row.recipe in wanted}
    return list(last.values())[: max(0, places - 1 - len(staying))]


def _leave(cache: Rows, alive: list[Row], kept: list[Row]) -> list[Row]:
    """Take out the rows that have ended, but for `kept`; the last ones move into the places that fall free."""
    needed = set(kept)
    stays = [not row.ended or row in needed for row in alive]
    size = sum(stays)
    free = [place for place in range(size) if not stays[place]]
    moves = list(zip((place for place in range(size, len(alive)) if stays[place]), free, strict=True))
    cache.copy(moves, max((alive[source].computed for source, _ in moves), default=0))
    for source, target in moves:
        alive[target] = alive[source]
    return alive[:size]
