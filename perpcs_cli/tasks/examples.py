"""The prompts of each step: training on a history, answering queries, adapting the base to the task.

Source: the published Per-PCs code, `train_anchor_PEFT.py` and `task_LoRA.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal

from perpcs_cli.artifacts.users import Item, User
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.prompts import (
    Prompt,
    context_block,
    history_line,
    history_prompt,
    item_article,
    parse_input,
    query_prompt,
    search_text,
)
from perpcs_cli.tasks.retrieval import best_earlier, best_of_all
from perpcs_cli.tasks.spec import Task

Source = Literal["auto", "queries", "history", "both"]
"""Where adaptation takes its examples from; `auto`: a user's answered queries, else the history."""


def history_prompts(task: Task, user: User) -> list[Prompt]:
    """The plain prompt of each history item with an answer, from old to new.

    Raises DataError for an empty history, and where no item has an answer: LaMP-1's may have no `citation`.
    """
    if not user.history:
        raise DataError(
            f"user {user.user_id!r} has no history",
            hint="Choose users who have history items, or import the data with their profiles.",
        )
    prompts = [history_prompt(task, item) for item in _answered(task, user)]
    if not prompts:
        raise DataError(
            f"the history of user {user.user_id!r} has no {task.output_field} to train on",
            hint=f"{task.name} learns {task.output_field} from {task.input_field}: import both.",
        )
    return prompts


def training_prompts(task: Task, user: User, *, retrieve: int = 1, plain: bool = False) -> list[Prompt]:
    """The published training examples of a user.

    Where the task trains with context, each item but the first comes once with the user's profile (if there
    is one) and the best `retrieve` earlier items; then every item comes plain. With `plain`, only the latter.
    Raises DataError as `history_prompts` does.
    """
    prompts = history_prompts(task, user)
    return prompts if plain or not task.trains_with_context else _with_context(task, user, retrieve) + prompts


def query_prompts(
    task: Task, user: User, *, retrieve: int = 0, profile: bool = False, random_seed: int | None = None
) -> list[Prompt]:
    """The prompts of a user's queries: plain, with `retrieve` items of the history, the profile, or both.

    The items are BM25's best; with `random_seed` they are drawn at random, for each query on its own. Raises
    DataError for a query that has not LaMP's form, and for a profile that the user does not have.
    """
    if profile and not user.profile:
        raise DataError(
            f"user {user.user_id!r} has no profile text",
            hint="Write the profiles first, or go without them.",
        )
    lines = [history_line(task, item) for item in user.history] if retrieve else []
    if random_seed is None:
        searches = [search_text(task, parse_input(task, query)["article"]) for query in user.queries]
        chosen = best_of_all(lines, searches, retrieve)
    else:
        count = min(retrieve, len(lines))
        seeds = [f"{random_seed} {user.user_id} {query.id}" for query in user.queries]
        chosen = [random.Random(seed).sample(range(len(lines)), count) for seed in seeds]
    text = user.profile if profile else None
    return [
        query_prompt(task, query, context=context_block(text, [lines[place] for place in places]))
        for query, places in zip(user.queries, chosen, strict=True)
    ]


def adaptation_prompts(
    task: Task, users: Iterable[User], *, source: Source = "auto", context: bool = True
) -> list[Prompt]:
    """The examples that adapt the base to the task, from its base users.

    A query with a known answer comes with the user's profile (if there is one) and the best item of the whole
    history; a history gives its training examples. Without `context`, all are plain. Users who have neither
    are passed over. Raises DataError where no example is left.
    """
    prompts: list[Prompt] = []
    for user in users:
        queries = [] if source == "history" else _answered_queries(task, user, context=context)
        prompts += queries
        if source in ("history", "both") or (source == "auto" and not queries):
            if task.trains_with_context and context:
                prompts += _with_context(task, user, 1)
            prompts += [history_prompt(task, item) for item in _answered(task, user)]
    if not prompts:
        wanted = {"queries": "query with a known output", "history": "history item with an answer"}
        raise DataError(
            f"the base users have no {wanted.get(source, 'query or history item with an answer')}",
            hint="Choose other users, or another source of examples.",
        )
    return prompts


def _answered(task: Task, user: User) -> Sequence[Item]:
    return [item for item in user.history if item.get(task.output_field)]


def _answered_queries(task: Task, user: User, *, context: bool) -> list[Prompt]:
    profile, retrieve = (bool(user.profile), 1) if context else (False, 0)
    prompts = query_prompts(task, user, retrieve=retrieve, profile=profile)
    return [prompt for prompt in prompts if prompt.answer is not None]


def _with_context(task: Task, user: User, retrieve: int) -> list[Prompt]:
    """Each answered item but the first, after the profile and its best earlier items."""
    items = _answered(task, user)
    lines = [history_line(task, item) for item in items]
    searches = [search_text(task, item_article(task, item)) for item in items]
    prompts = []
    for place, earlier in enumerate(best_earlier(lines, searches, retrieve)):
        context = context_block(user.profile, [lines[other] for other in earlier])
        if place and context:
            prompts.append(history_prompt(task, items[place], context=context))
    return prompts
