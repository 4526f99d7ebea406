"""Systems side by side: answers and references matched by query, then metrics, intervals and differences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.labels import is_labels, read_labels
from perpcs_cli.artifacts.metrics import Metrics, Resampling, Source, SystemMetrics, UserValues
from perpcs_cli.artifacts.predictions import each_prediction
from perpcs_cli.artifacts.predictions import read_info as read_sidecar
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError, shortened
from perpcs_cli.methods.statistics.bootstrap import Bootstrapped, Floats, bootstrap, sum_by_group
from perpcs_cli.tasks.metrics import from_sums, is_reference, per_example
from perpcs_cli.tasks.spec import Task

Key = tuple[str, str]
"""(user id, query id); the user is "" in LaMP's format, which names none."""

PARTIAL = "Use --partial to evaluate the queries that every file answers."
TOGETHER = 4096
"""Answers that are compared with their references at a time."""
Measure = Callable[[str, str], float]
"""What an answer is worth beside its reference."""


@dataclass(frozen=True)
class AnswersInfo:
    """Whose answers a file has, and what it says of itself ("" where it says nothing)."""

    path: Path
    names_users: bool
    users: frozenset[str]
    task: str = ""
    model_label: str = ""


@dataclass(frozen=True)
class Answers:
    """One file's answers or references by query."""

    path: Path
    texts: dict[Key, str | None]
    names_users: bool
    task: str = ""

    @property
    def users(self) -> set[str]:
        """The users with an answer here."""
        return {user for user, _ in self.texts}


def read_info(path: Path) -> AnswersInfo:
    """A file of answers, ours or in LaMP's format, looked at from end to end; its texts are not held.

    Raises DataError where it is broken.
    """
    if is_labels(path):
        return AnswersInfo(path, False, frozenset({""}), read_labels(path).task)
    count, users = 0, set()
    for row in each_prediction(path):
        count += 1
        users.add(row.user_id)
    info = read_sidecar(path, count)
    found = AnswersInfo(path, True, frozenset(users))
    return found if info is None else replace(found, task=info.task, model_label=info.model_label)


def read_answers(path: Path) -> Answers:
    """The answers of such a file, or LaMP's labels. Raises DataError where it is broken; a sidecar is not looked at."""
    if is_labels(path):
        labels = read_labels(path)
        return Answers(path, {("", gold.id): gold.output for gold in labels.golds}, False, labels.task)
    return Answers(path, {(row.user_id, row.id): row.output for row in each_prediction(path)}, True)


def each_answer(path: Path, references: Answers) -> Iterator[tuple[Key, str | None]]:
    """The answers of a file under the references' keys, one at a time where both name users.

    Raises what `read_answers` and `aligned` raise.
    """
    if is_labels(path) or not references.names_users:
        yield from aligned(read_answers(path), references).texts.items()
    else:
        yield from (((row.user_id, row.id), row.output) for row in each_prediction(path))


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


def restricted(answers: Answers, users: Set[str]) -> Answers:
    """The answers that belong to `users`, or to nobody known."""
    kept = users | {""}
    return replace(answers, texts={key: text for key, text in answers.texts.items() if key[0] in kept})


def known(task: Task, references: Answers, *, partial: bool) -> list[Key]:
    """The queries with a reference, in the references' order.

    Raises DataError for a reference that is no possible answer of the task, and without `partial` for queries that have
    no reference.
    """
    found = [key for key, text in references.texts.items() if text is not None]
    wrong = [key for key in found if not is_reference(task, references.texts[key] or "")]
    if wrong:
        what = f"the references of {_shown(wrong)} cannot be answers of {task.name}"
        example = references.texts[wrong[0]]
        raise DataError(what, where=references.path, hint=f"Found {example!r}. Is it the right --task?")
    if not partial and (unknown := [key for key, text in references.texts.items() if text is None]):
        raise DataError(f"{_shown(unknown)} without a reference output", where=references.path, hint=PARTIAL)
    return found


@dataclass(frozen=True)
class Measured:
    """A system's answers to some queries in numbers: `rows` [queries, C] of `tasks.metrics.per_example`, and a column
    for each other measure; which queries it answers at all, and the queries it answers beside them."""

    rows: Floats
    there: NDArray[np.bool_]
    extra: set[Key]


def measured(
    task: Task,
    references: Answers,
    keys: Sequence[Key],
    path: Path,
    answers: Iterable[tuple[Key, str | None]],
    *,
    also: Collection[Measure] = (),
    partial: bool = False,
) -> Measured:
    """The `answers` of the file at `path` to the queries `keys`, of which some are held at a time.

    Without `partial`, raises DataError naming the queries that lack an answer, or are not among the references.
    """
    places = {key: place for place, key in enumerate(keys)}
    there = np.zeros(len(keys), dtype=bool)
    rows: Floats = np.zeros((len(keys), 0))
    extra: dict[Key, None] = {}
    left = iter(answers)
    while some := list(islice(left, TOGETHER)):
        extra |= {key: None for key, _ in some if key not in references.texts}
        asked = [(places[key], text or "", references.texts[key] or "") for key, text in some if key in places]
        if asked:
            at, texts, truths = zip(*asked, strict=True)
            more = [[measure(text, truth) for measure in also] for _, text, truth in asked]
            found = np.hstack([per_example(task, texts, truths), np.array(more).reshape(len(asked), len(also))])
            if not there.any():
                rows = np.zeros((len(keys), found.shape[1]))
            rows[list(at)], there[list(at)] = found, True
    if not partial:
        if not there.all():
            missing = [key for key, found in zip(keys, there, strict=True) if not found]
            raise DataError(f"no prediction for {_shown(missing)}", where=path, hint=PARTIAL)
        if extra:
            what = f"predictions for {_shown(list(extra))}, which {references.path} does not have"
            raise DataError(what, where=path, hint=PARTIAL)
    return Measured(rows, there, set(extra))


def compare(
    task: Task,
    references: Answers,
    systems: Mapping[str, AnswersInfo],
    answers_of: Callable[[Path], Iterable[tuple[Key, str | None]]],
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

    `answers_of` reads a system's file, under the references' keys; no texts are held. With `partial`, the queries are
    those that have a reference and an answer of every system. `also` are metrics besides the task's, by name: the mean
    of a measure over the queries. There are no intervals where `resamples` is 0 or fewer than two units can be drawn.
    Raises DataError as `known` and `measured` do, and where no query is left.
    """

    def values_of(sums: Floats) -> dict[str, Floats]:
        own, others = np.split(sums, [sums.shape[-1] - len(also)], axis=-1)
        return {**from_sums(task, own), **{name: others[..., i] / own[..., 0] for i, name in enumerate(also)}}

    asked = known(task, references, partial=partial)
    found = {
        name: measured(task, references, asked, info.path, answers_of(info.path), also=also.values(), partial=partial)
        for name, info in systems.items()
    }
    everyone = np.all([one.there for one in found.values()], axis=0)
    extra = set[Key]().union(*(one.extra for one in found.values()))
    if not everyone.any():
        raise DataError("no query has a reference and a prediction in every file", where=references.path)
    keys = list(compress(asked, everyone))
    rows = {name: one.rows[everyone] for name, one in found.items()}
    users = [user for user, _ in keys]
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
    for name, info in systems.items():
        intervals, differences = resampled.get(name, Bootstrapped({}, {}))
        results[name] = SystemMetrics(
            predictions=_source(info.path, provenance),
            model_label=info.model_label,
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
        left_out=len(references.texts) + len(extra) - len(keys),
        references=_source(references.path, provenance),
        baseline=baseline,
        systems=results,
        resampling=Resampling(unit=unit, units=units, resamples=resamples, seed=provenance.seed) if resampled else None,
        provenance=provenance,
    )


def _source(path: Path, provenance: Provenance) -> Source:
    return Source(file=str(path), sha256=provenance.inputs[str(path)])


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
