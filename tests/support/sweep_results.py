"""A sweep's results, written by hand: users with ratings or tags, and what each cell answered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.predictions import Prediction, write_predictions
from perpcs_cli.artifacts.results import FILE, Result
from perpcs_cli.artifacts.users import Query, User, write_users
from perpcs_cli.tasks.metrics import evaluate
from perpcs_cli.tasks.spec import get_task

RATINGS = {f"u{n:02}": ["4", "2"] for n in range(12)}
"""Two references for each of twelve users."""
TAGS = {f"u{n:02}": ["comedy", "action"] for n in range(12)}


class Swept:
    """A directory with results, to which cells are added."""

    def __init__(self, root: Path, task: str, references: Mapping[str, list[str]], model: str = "tiny") -> None:
        self.root, self.task, self.model, self.references = root, task, model, references
        self.rows: list[Result] = []
        users = [
            User(
                user_id=user,
                # u00 has one item, u01 two, and so on.
                history=[{"text": "fine", "score": "4"}] * (number + 1),
                queries=[Query(id=f"q{n}", input="?", output=text) for n, text in enumerate(texts)],
            )
            for number, (user, texts) in enumerate(references.items())
        ]
        write_users(root / "users.jsonl", users)

    def add(
        self,
        method: str,
        answers: list[str] | Mapping[str, list[str]],
        experiment: str = "main",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Add a cell: the same two answers for every user, or each user's own; `prime__alpha=1` is `prime.alpha`."""
        own = answers if isinstance(answers, Mapping) else dict.fromkeys(self.references, answers)
        rows = [
            Prediction(user_id=user, id=f"q{n}", output=text)
            for user, texts in own.items()
            for n, text in enumerate(texts)
        ]
        name = f"predictions/{len(self.rows)}.jsonl"
        write_predictions(self.root / name, rows)
        truths = [text for user in own for text in self.references[user]]
        self.rows.append(
            Result(
                experiment=experiment,
                method=method,
                task=self.task,
                model=self.model,
                seed=seed,
                settings={key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()},
                metrics=evaluate(get_task(self.task), [row.output for row in rows], truths),
                count=len(rows),
                user_count=len(own),
                predictions=name,
                users="users.jsonl",
                digest=f"{len(self.rows):064x}",
                seconds={},
            )
        )
        typed_files.write_jsonl(self.root / FILE, self.rows)
