"""What several systems answer to the same queries, beside the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from perpcs_cli.steps.evaluate.metrics import by_users
from perpcs_cli.steps.workspace import EVERYONE, Places, Who


class SideBySide(msgspec.Struct, frozen=True, kw_only=True):
    """One query's answers, by system; None where a system, or the users' file, has none."""

    user_id: str
    id: str
    reference: str | None
    answers: dict[str, str | None]


def side_by_side(
    predictions: Mapping[str, Path], places: Places, who: Who = EVERYONE, *, first: int
) -> list[SideBySide]:
    """The `first` queries of each user that any file answers for, with what prediction files {name: file} say."""
    from perpcs_cli.methods.statistics.comparison import read_info

    references, answers_of = by_users(who.path(places), who.ids, [read_info(path) for path in predictions.values()])
    systems = {name: dict(answers_of(path)) for name, path in predictions.items()}
    seen: Counter[str] = Counter()
    rows = []
    for user, query in references.texts:
        seen[user] += 1
        if seen[user] <= first:
            answers = {name: system.get((user, query)) for name, system in systems.items()}
            rows.append(SideBySide(user_id=user, id=query, reference=references.texts[user, query], answers=answers))
    return rows
