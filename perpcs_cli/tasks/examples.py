"""The prompts of each step: training on a history, searching on it, answering queries, adapting the base to the task.

Source: the published Per-PCs code, `train_anchor_PEFT.py` and `task_LoRA.py`; PriME (Kim et al., 2025), appendix on
prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from perpcs_cli.artifacts.settings import Prompts, WhiteSpace
from perpcs_cli.artifacts.task import pieces
from perpcs_cli.artifacts.users import Item, User
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.bm25 import best_earlier, best_of_all
from perpcs_cli.tasks.prompts import (
    PLAIN,
    PUBLISHED,
    Prompt,
    Shown,
    Source,
    context_block,
    history_line,
    history_prompt,
    item_fields,
    query_fields,
    query_prompt,
    search_text,
)
from perpcs_cli.tasks.spec import Task


def history_prompts(task: Task, user: User, shown: Shown = PLAIN, *, seed: int = 0) -> list[Prompt]:
    """The prompt of each history item with an answer, from old to new, after what `shown` says of earlier items.

    Raises DataError for an empty history, where no item has an answer (LaMP-1's may have no `citation`), and for a
    profile that the user does not have.
    """
    if not user.history:
        raise DataError(
            f"user {user.user_id!r} has no history",
            hint="Choose users who have history items, or import the data with their profiles.",
        )
    items = _answered(task, user)
    if not items:
        raise DataError(
            f"the history of user {user.user_id!r} has no {task.output_field} to train on",
            hint=f"{task.name} learns {task.output_field} from {task.input_field}: import both.",
        )
    contexts = [""] * len(items) if shown == PLAIN else _earlier(task, user, items, shown, seed)
    return [history_prompt(task, item, context=context) for item, context in zip(items, contexts, strict=True)]


def training_prompts(task: Task, user: User, shown: Shown = PUBLISHED, *, seed: int = 0) -> list[Prompt]:
    """The training examples of a user: each item but the first after what `shown` shows, then each item plain.

    As published, tasks that do not train with context have only the plain ones, unless `shown` asks for more than the
    published code does. Raises DataError as `history_prompts` does.
    """
    plain = history_prompts(task, user)
    if shown == PLAIN or (shown == PUBLISHED and not task.trains_with_context):
        return plain
    return [prompt for prompt in history_prompts(task, user, shown, seed=seed)[1:] if prompt.context] + plain


def search_prompts(
    task: Task, user: User, prompts: Prompts, shown: Shown = PLAIN, *, seed: int = 0
) -> tuple[list[Prompt], Shown]:
    """(the prompts that PriME scores candidates on, what those with context show).

    Each history item once after what `shown` shows, or `both`: the training examples, by default as published. Raises
    DataError as `history_prompts` does.
    """
    if prompts == "once":
        return history_prompts(task, user, shown, seed=seed), shown
    context = PUBLISHED if shown == PLAIN else shown
    return training_prompts(task, user, context, seed=seed), context


def query_prompts(
    task: Task, user: User, shown: Shown = PLAIN, *, seed: int = 0, white_space: WhiteSpace = "kept"
) -> list[Prompt]:
    """The prompts of a user's queries, after what `shown` says of the whole history.

    Raises DataError for a query that has not LaMP's form, and for a profile that the user does not have.
    """
    profile = _profile(user, shown)
    lines = [history_line(task, item) for item in user.history] if shown.retrieve or shown.random_history else []
    if shown.random_history:
        chosen = [_drawn(len(lines), shown, seed, user.user_id, query.id) for query in user.queries]
    else:
        searches = [search_text(task, query_fields(task, query)) for query in user.queries]
        chosen = best_of_all(lines, searches, shown.retrieve)
    return [
        query_prompt(
            task, query, context=context_block(profile, [lines[place] for place in places]), white_space=white_space
        )
        for query, places in zip(user.queries, chosen, strict=True)
    ]


def adaptation_prompts(
    task: Task, users: Iterable[User], shown: Shown = PUBLISHED, *, source: Source = "auto", seed: int = 0
) -> list[Prompt]:
    """The examples that adapt the base to the task, from its base users.

    A query with a known answer comes after what `shown` says of the whole history; a history gives its training
    examples. Users who have neither are passed over. Raises DataError where no example is left.
    """
    prompts: list[Prompt] = []
    for user in users:
        queries: list[Prompt] = []
        if source != "history":
            asked = query_prompts(task, user, shown, seed=seed, white_space=task.white_space)
            queries = [prompt for prompt in asked if prompt.answer is not None]
        prompts += queries
        if (source in ("history", "both") or (source == "auto" and not queries)) and _answered(task, user):
            prompts += training_prompts(task, user, shown, seed=seed)
    if not prompts:
        wanted = {"queries": "query with a known output", "history": "history item with an answer"}
        raise DataError(
            f"the base users have no {wanted.get(source, 'query or history item with an answer')}",
            hint="Choose other users, or another source of examples.",
        )
    return prompts


def _answered(task: Task, user: User) -> Sequence[Item]:
    return [item for item in user.history if item.get(task.output_field)]


def _earlier(task: Task, user: User, items: Sequence[Item], shown: Shown, seed: int) -> list[str]:
    """What stands before each item: the profile, and only items that are older than it.

    LaMP-7's items have nothing but their answer, so that there is nothing to retrieve by: it is the newest ones.
    """
    profile = _profile(user, shown)
    if not shown.retrieve and not shown.random_history:
        return [context_block(profile, [])] * len(items)
    lines = [history_line(task, item) for item in items]
    if shown.random_history:
        chosen = [_drawn(place, shown, seed, user.user_id, f"item {place}") for place in range(len(items))]
    elif all(name is None for _, name in pieces(task.history_template)):
        # Such an item asks nothing: to look for what is like it would be to look for what is like the answer.
        chosen = [list(range(place))[::-1][: shown.retrieve] for place in range(len(items))]
    else:
        chosen = best_earlier(lines, [search_text(task, item_fields(task, item)) for item in items], shown.retrieve)
    return [context_block(profile, [lines[place] for place in places]) for places in chosen]


def _profile(user: User, shown: Shown) -> str | None:
    if shown.profile and not user.profile:
        raise DataError(
            f"user {user.user_id!r} has no profile text",
            hint="Write the profiles with `perpcs profile`, or go without --with-profile.",
        )
    return None if shown.profile is False else user.profile


def _drawn(size: int, shown: Shown, seed: int, user_id: str, key: str) -> list[int]:
    """Random items of the first `size`, drawn for each prompt on its own."""
    return random.Random(f"{seed} {user_id} {key}").sample(range(size), min(shown.random_history, size))
