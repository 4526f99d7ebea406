"""Answers side by side with their references, as far as a page can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perpcs_cli.experiments.report.blocks import Answer, Answers, Asked, Section
from perpcs_cli.steps.evaluate.side_by_side import side_by_side
from perpcs_cli.steps.workspace import Places, Who

USERS = 60
"""The most users whose answers are shown, where none are asked for."""
SYSTEMS = 16


def section(files: Mapping[str, Path], places: Places, who: Who, first: int, missing: str) -> Section:
    """The `first` answers of each user, of prediction files {system: file}."""
    shown = dict(list(files.items())[:SYSTEMS])
    if not shown or not first:
        why = missing if not shown else "The report was made with `--answers 0`: it holds no answers."
        return Section("answers", "Answers", missing=why)
    rows = side_by_side(shown, places, who, first=first)
    known = list(dict.fromkeys(row.user_id for row in rows))
    users = known if who.ids else known[:USERS]
    systems = list(shown)
    asked = [
        Asked(
            user=users.index(row.user_id),
            name=row.user_id,
            id=row.id,
            reference=row.reference,
            answers=[
                Answer(place, text, text is not None and text.strip() == (row.reference or "").strip())
                for place, text in enumerate(row.answers[name] for name in systems)
            ],
        )
        for row in rows
        if row.user_id in users
    ]
    lead = "What each system says, beside the reference. A dot marks answers that are the reference, word for word."
    if len(users) < len(known):
        lead += f" The first {len(users)} of {len(known)} users; --user chooses others."
    if len(shown) < len(files):
        lead += f" The first {len(shown)} of {len(files)} systems."
    return Section("answers", "Answers", lead, [Answers(users, systems, asked)])
