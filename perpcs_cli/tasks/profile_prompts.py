"""The prompts that ask a model for a user's textual profile (PAG).

Source: the published code of Per-PCs and OPPU (Tan et al., 2024), `prompt/prompt_profile.json` and `gen_profile.py`,
with their typographic apostrophes. That code shows ten items of the history, drawn at random, as Python prints a list
of them; here they are the newest ones unless the settings say so, from old to new, joined by " | ", which that code
prepares and then does not use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from perpcs_cli.artifacts.settings import ProfileSettings
from perpcs_cli.artifacts.users import Item, User
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.prompts import Prompt, fill
from perpcs_cli.tasks.spec import Task

ITEM_WORDS = 200
"""Words kept of each field of an item."""


NEWEST = ProfileSettings()
"""As profiles are written by default."""


@dataclass(frozen=True)
class ProfileTemplate:
    """How one task asks for a profile."""

    question: str
    line: str
    """One history item, from the task's required fields."""
    more: str = ""
    """What follows where the item has the task's output besides."""


PROFILE_TEMPLATES = {
    "citation": ProfileTemplate(
        "Write a summary, in English, of the research interests and topics of a researcher who has published the "
        "following papers. Only generate the summary, no other text.",
        "paper title: {title}",
        " reference: {citation}",
    ),
    "movie_tagging": ProfileTemplate(
        "Look at the following past movies this user has watched and determine the most popular tag they labeled. "
        "Answer in the following form: most popular tag: <tag>.",
        "description: {description} tag: {tag}",
    ),
    "news_category": ProfileTemplate(
        "Look at the following past articles this journalist has written and determine the most popular category they "
        "write in. Answer in the following form: most popular category: <category>.",
        "article: {text} category: {category}",
    ),
    "product_rating": ProfileTemplate(
        "Based on this user's past reviews, what are the most common scores they give for positive and negative "
        "reviews? Answer in the following form: most common positive score: <most common positive score>, most common "
        "negative score: <most common negative score>.",
        "review: {text} score: {score}",
    ),
    "news_headline": ProfileTemplate(
        "Given this author's previous articles, try to describe a template for their headlines. I want to be able to "
        "accurately predict the headline gives one of their articles. Be specific about their style and wording, don't "
        "tell me anything generic.",
        "article: {text} headline: {title}",
    ),
    "scholarly_title": ProfileTemplate(
        "Given this author’s previous publications, try to describe a template for their titles. I want to be able to "
        "accurately predict the title of one of the papers from the abstract. Only generate the template description, "
        "nothing else.",
        "abstract: {abstract} title: {title}",
    ),
    "tweet_paraphrase": ProfileTemplate(
        "Given this person’s previous tweets, try to describe a template for their tweets. I want to take a generic "
        "sentence and rephrase it to sound like one of their tweets, with the same "
        "style/punctuation/capitalization/wording/tone/etc. as them. Only give me the template description, nothing "
        "else.",
        "tweet: {text}",
    ),
}
"""By the task's name."""


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
    question = PROFILE_TEMPLATES[task.name].question
    return Prompt(user_id, "", f"{question} User History: ", " | ".join(lines), " Answer:", None, turn)


def _line(task: Task, item: Item) -> str:
    template = PROFILE_TEMPLATES[task.name]
    line, names = template.line, list(task.required)
    if template.more and item.get(task.output_field):
        line, names = line + template.more, [*names, task.output_field]
    return fill(task, item, line, names, ITEM_WORDS)
