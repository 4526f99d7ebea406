"""Systems side by side: answers and references matched by query, then metrics, intervals and differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.labels import is_labels, read_labels
from perpcs_cli.artifacts.metrics import Metrics, Resampling, Source, SystemMetrics, UserValues
from perpcs_cli.artifacts.predictions import each_prediction, read_info
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError, shortened
from perpcs_cli.methods.statistics.bootstrap import Bootstrapped, Floats, bootstrap, sum_by_group
from perpcs_cli.tasks.metrics import from_sums, is_reference, per_example
from perpcs_cli.tasks.spec import Task

Key = tuple[str, str]
"""(user id, query id); the user is "" in LaMP's format, which names none."""

Measure = Callable[[str, str], float]
"""What an answer is worth beside its reference."""


@dataclass(frozen=True)
class Answers:
    """One file's answers or references by query, and what it says of itself ("" where it says nothing)."""

    path: Path
    texts: dict[Key, str | None]
    names_users: bool
    task: str = ""
    model_label: str = ""

    @property
    def users(self) -> set[str]:
        """The users with an answer here."""
        return {user for user, _ in self.texts}


def read_answers(path: Path) -> Answers:
    """Predictions, ours or in LaMP's format, or LaMP's labels. Raises DataError where the file is broken."""
    if is_labels(path):
        labels = read_labels(path)
        return Answers(path, {("", gold.id): gold.output for gold in labels.golds}, False, labels.task)
    answers = Answers(path, {(row.user_id, row.id): row.output for row in each_prediction(path)}, True)
    info = read_info(path, len(answers.texts))
    return answers if info is None else replace(answers, task=info.task, model_label=info.model_label)


def references_of(users: Iterable[User], path: Path) -> Answers:
    """The outputs of all queries of `users`, None where there is none. Raises DataError for repeated ids."""
    texts: dict[Key, str | None] = {}
    for user in users:
        for query in user.queries:
            if (user.user_id, query.id) in texts:
                raise DataError(f"query {query.id!r} of user {user.user_id!r} occurs twice", where=path)
            texts[user.user_id, query.id] = query.output
    return Answers(path, texts, True)


def aligned(answers: Answers, references: Answers) -> Answers:
    """`answers` under the references' keys: users are added where only the references name them, or left out.

    Raises DataError where one id belongs to several users and the other side names no users.
    """
    if answers.names_users == references.names_users:
        return answers
    named, nameless = (answers, references) if answers.names_users else (references, answers)
    by_id: dict[str, Key] = {}
    for user, query in named.texts:
        if query in by_id:
            raise DataError(
                f"the id {query!r} belongs to users {by_id[query][0]!r} and {user!r}, and {nameless.path} "
                "names no users",
                where=named.path,
                hint="Use files that name users, or ids that are unique over all users.",
            )
        by_id[query] = (user, query)
    if answers.names_users:
        return replace(answers, texts={("", query): text for (_, query), text in answers.texts.items()})
    return replace(answers, texts={by_id.get(query, ("", query)): text for (_, query), text in answers.texts.items()})


def restricted(answers: Answers, users: set[str]) -> Answers:
    """The answers that belong to `users`, or to nobody known."""
    kept = users | {""}
    return replace(answers, texts={key: text for key, text in answers.texts.items() if key[0] in kept})


def matched(task: Task, references: Answers, systems: Mapping[str, Answers], *, partial: bool) -> tuple[list[Key], int]:
    """The queries to evaluate, in the references' order, and how many were left out.

    With `partial` these are the ones that have a reference and an answer of every system. Without it,
    raises DataError naming the queries that lack one or the other. Always raises DataError for a reference
    that is no possible answer of the task, and where nothing is left.
    """
    known = [key for key, text in references.texts.items() if text is not None]
    wrong = [key for key in known if not is_reference(task, references.texts[key] or "")]
    if wrong:
        what = f"the references of {_shown(wrong)} cannot be answers of {task.name}"
        example = references.texts[wrong[0]]
        raise DataError(what, where=references.path, hint=f"Found {example!r}. Is it the right --task?")
    everything = set(references.texts).union(*(system.texts for system in systems.values()))
    keys = [key for key in known if all(key in system.texts for system in systems.values())]
    if not partial:
        hint = "Use --partial to evaluate the queries that every file answers."
        unknown = [key for key, text in references.texts.items() if text is None]
        if unknown:
            raise DataError(f"{_shown(unknown)} without a reference output", where=references.path, hint=hint)
        for system in systems.values():
            missing = [key for key in known if key not in system.texts]
            if missing:
                raise DataError(f"no prediction for {_shown(missing)}", where=system.path, hint=hint)
            extra = [key for key in system.texts if key not in references.texts]
            if extra:
                what = f"predictions for {_shown(extra)}, which {references.path} does not have"
                raise DataError(what, where=system.path, hint=hint)
    if not keys:
        raise DataError("no query has a reference and a prediction in every file", where=references.path)
    return keys, len(everything) - len(keys)


def compare(
    task: Task,
    references: Answers,
    systems: Mapping[str, Answers],
    *,
    baseline: str,
    provenance: Provenance,
    partial: bool = False,
    resamples: int = 1000,
    unit: Literal["users", "examples"] = "users",
    per_user: bool = False,
    also: Mapping[str, Measure] = MappingProxyType({}),
) -> Metrics:
    """Evaluate systems on the same queries; `provenance.inputs` has the files' digests by their paths.

    `also` are metrics besides the task's, by name: the mean of a measure over the queries. There are no intervals where
    `resamples` is 0 or fewer than two units can be drawn. Raises DataError as `matched` does.
    """

    def values_of(sums: Floats) -> dict[str, Floats]:
        own, others = np.split(sums, [sums.shape[-1] - len(also)], axis=-1)
        return {**from_sums(task, own), **{name: others[..., i] / own[..., 0] for i, name in enumerate(also)}}

    def rows_of(texts: Sequence[str]) -> Floats:
        measured = [
            [measure(text, truth) for measure in also.values()] for text, truth in zip(texts, truths, strict=True)
        ]
        return np.hstack([per_example(task, texts, truths), np.array(measured).reshape(len(texts), len(also))])

    keys, left_out = matched(task, references, systems, partial=partial)
    users = [user for user, _ in keys]
    truths = [references.texts[key] or "" for key in keys]
    rows = {name: rows_of([system.texts[key] or "" for key in keys]) for name, system in systems.items()}
    units = len(set(users)) if unit == "users" else len(keys)
    resampled: dict[str, Bootstrapped] = {}
    if units > 1 and resamples:
        resampled = bootstrap(
            rows,
            values_of,
            baseline,
            groups=users if unit == "users" else None,
            resamples=resamples,
            seed=provenance.seed,
        )
    results = {}
    for name, system in systems.items():
        intervals, differences = resampled.get(name, Bootstrapped({}, {}))
        results[name] = SystemMetrics(
            predictions=_source(system, provenance),
            model_label=system.model_label,
            values={metric: float(value) for metric, value in values_of(rows[name].sum(axis=0)).items()},
            intervals=intervals,
            differences=differences,
            users=_by_user(values_of, rows[name], users) if per_user else {},
        )
    return Metrics(
        task=task.name,
        metrics=[*task.metrics, *also],
        count=len(keys),
        user_count=len(set(users) - {""}),
        left_out=left_out,
        references=_source(references, provenance),
        baseline=baseline,
        systems=results,
        resampling=Resampling(unit=unit, units=units, resamples=resamples, seed=provenance.seed) if resampled else None,
        provenance=provenance,
    )


def _source(answers: Answers, provenance: Provenance) -> Source:
    return Source(file=str(answers.path), sha256=provenance.inputs[str(answers.path)])


def _by_user(
    values_of: Callable[[Floats], dict[str, Floats]], rows: Floats, users: Sequence[str]
) -> dict[str, UserValues]:
    """A system's metrics by user. rows: [examples, C], of which sums give the metrics; users: of each example."""
    sums = sum_by_group(rows, users)
    metrics = values_of(sums)
    return {
        user: UserValues(
            count=int(sums[number, 0]),
            values={metric: float(values[number]) for metric, values in metrics.items()},
        )
        for number, user in enumerate(dict.fromkeys(users))
    }


def _shown(keys: Sequence[Key]) -> str:
    """`query 'q1' of user 'u1', …`, at most three and how many more."""
    return shortened([f"query {query!r}" + (f" of user {user!r}" if user else "") for user, query in keys])
