"""The prompts that ask a model for a user's textual profile (PAG).

The question and the line of an item stand in the task's file; those of LaMP's tasks are, with typographic apostrophes,
from `prompt/prompt_profile.json` of the published code of Per-PCs and OPPU (Tan et al., 2024), and the rest is from
its `gen_profile.py`. That code shows ten items of the history, drawn at random, as Python prints a list
of them; here they are the newest ones unless the settings say so, from old to new, joined by " | ", which that code
prepares and then does not use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from perpcs_cli.artifacts.settings import ProfileSettings
from perpcs_cli.artifacts.users import Item, User
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.prompts import Prompt, fill
from perpcs_cli.tasks.spec import Task

ITEM_WORDS = 200
"""Words kept of each field of an item."""


NEWEST = ProfileSettings()
"""As profiles are written by default."""


def profile_lines(task: Task, user: User, settings: ProfileSettings = NEWEST, *, seed: int = 0) -> list[str]:
    """The items of a user's history that the profile prompt shows, from old to new: the newest, or drawn by seed.

    Raises DataError where an item lacks a required field.
    """
    items = user.history[-settings.recent :]
    if settings.random_items is not None:
        count = min(settings.random_items, len(user.history))
        drawn = random.Random(f"{seed} {user.user_id} profile").sample(range(len(user.history)), count)
        items = [user.history[place] for place in sorted(drawn)]
    try:
        return [_line(task, item) for item in items]
    except DataError as error:
        raise DataError(error.what, where=f"user {user.user_id}", hint=error.hint) from None


def profile_prompt(task: Task, user_id: str, lines: Sequence[str], turn: tuple[str, str] = ("", "")) -> Prompt:
    """The prompt that asks for a user's profile; `turn` is what a chat puts before and after a message."""
    return Prompt(user_id, "", f"{task.profile_question} User History: ", " | ".join(lines), " Answer:", None, turn)


def _line(task: Task, item: Item) -> str:
    line, names = task.profile_line, list(task.required)
    if task.profile_more and item.get(task.output_field):
        line, names = line + task.profile_more, [*names, task.output_field]
    return fill(task, item, line, names, ITEM_WORDS)
