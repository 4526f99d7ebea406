"""Per-PCs assembly: recipes from target users' histories, several users in a pass.

Source: Tan et al., Personalized Pieces, 2024, section 3.3, and its published code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

import torch

from perpcs_cli.methods.per_pcs.assembler import Assembler, Weights
from perpcs_cli.methods.per_pcs.history_batches import HistoryBatch
from perpcs_cli.model.engine.memory import Halving, free_bytes


def average(parts: Sequence[Weights]) -> Weights:
    """The mean of several batches' weights; a missing sharer counts as 0."""
    result = {}
    for module in parts[0]:
        total: dict[int, float] = {}
        for part in parts:
            for sharer, weight in part[module]:
                total[sharer] = total.get(sharer, 0.0) + weight / len(parts)
        result[module] = sorted(total.items())
    return result


def assemble(
    assembler: Assembler,
    batches: Sequence[HistoryBatch],
    *,
    batch_tokens: int,
    wanted: Collection[str],
    done: Callable[[str, Weights], None],
) -> None:
    """Assemble the users of `batches` (each user's in a row), several in a pass; `done(user, weights)` for the wanted.

    Who shares a pass does not depend on who is wanted: a run that goes on computes what one that was never stopped
    would. Where the device's memory runs out, a pass is divided between its batches. Raises PerpcsError for a batch
    that does not fit alone.
    """
    finished: dict[str, list[Weights]] = {}
    waiting = Counter(group.user_id for group in batches)
    passes: list[list[HistoryBatch]] = []
    rows = longest = 0
    for group in batches:
        rows, longest = rows + len(group.rows), max(longest, *map(len, group.rows))
        if passes and rows * longest <= batch_tokens:
            passes[-1].append(group)
        else:
            passes.append([group])
            rows, longest = len(group.rows), max(map(len, group.rows))
    needed = [some for some in passes if any(group.user_id in wanted for group in some)]
    for walk in _walks(assembler, needed):
        for some, found in zip(walk, _results(assembler, walk), strict=True):
            for group, weights in zip(some, found, strict=True):
                parts = finished.setdefault(group.user_id, [])
                parts.append(weights)
                if group.user_id in wanted and len(parts) == waiting[group.user_id]:
                    done(group.user_id, average(finished.pop(group.user_id)))


def _walks(assembler: Assembler, passes: Sequence[list[HistoryBatch]]) -> Iterator[list[list[HistoryBatch]]]:
    """The passes that go side by side: as many as there is room for where gates are read again, else each alone."""
    walk: list[list[HistoryBatch]] = []
    held = 0
    for some in passes:
        needs = assembler.bytes_held(some)
        if walk and (assembler.gates.all_stay or held + needs > free_bytes(assembler.base.device) // 4):
            yield walk
            walk, held = [], 0
        walk.append(some)
        held += needs
    if walk:
        yield walk


def _results(assembler: Assembler, walk: Sequence[list[HistoryBatch]]) -> Iterator[list[Weights]]:
    """What comes of each pass."""
    try:
        yield from assembler.walk(walk) if len(walk) > 1 else ()
    except torch.OutOfMemoryError:
        pass
    else:
        if len(walk) > 1:
            return
    for some in walk:
        yield list(chain.from_iterable(Halving[HistoryBatch](lambda group: group.rows).run(some, assembler.run)))
