"""Prompts as the published Per-PCs code writes them: instruction, article, answer, and context in front."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import WhiteSpace
from perpcs_cli.artifacts.users import Item, Query
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.spec import Task

ITEM_WORDS = 768
"""Words kept of each field of the item or query itself."""
RETRIEVED_WORDS = 368
"""Words kept of each field of a retrieved item."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt shows of the user before the item or query itself: RAG, PAG or both."""

    retrieve: int = 0
    """History items, the best by BM25."""
    random_history: int = 0
    """History items drawn by seed, instead."""
    profile: bool | None = False
    """The user's profile text; None: where there is one."""


Source = Literal["auto", "queries", "history", "both"]
"""Where adaptation takes its examples from; `auto`: a user's answered queries, else the history."""

PLAIN = Shown()
PUBLISHED = Shown(retrieve=1, profile=None)
"""What the published code shows in training."""


@dataclass(frozen=True)
class Prompt:
    """A prompt in parts, so that only the article is ever shortened to fit a context window."""

    key: str
    """The id of the item or query; empty for an item without one."""
    context: str
    """Profile and history blocks; empty for a plain prompt."""
    before: str
    """The instruction, up to the article."""
    article: str
    """May be cut from its left where the context window is too small."""
    after: str
    """From the article to the answer, as ` Tag:`."""
    answer: str | None
    """With its leading space, as ` comedy`; None where it is not known."""
    turn: tuple[str, str] = ("", "")
    """What a chat puts before and after a message. Only here are names of special tokens read as those."""

    @property
    def message(self) -> str:
        """What is of the task and its users."""
        return self.context + self.before + self.article + self.after

    @property
    def text(self) -> str:
        """The whole prompt without the answer."""
        return self.turn[0] + self.message + self.turn[1]


def digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of prompts and answers: what an artifact was made from, to tell whether it is still the same."""
    return hashing.digest_value([[prompt.text, prompt.answer] for prompt in prompts])


def history_prompt(task: Task, item: Item, *, context: str = "") -> Prompt:
    """The prompt that trains on a history item, answered where the item has the task's output.

    Raises DataError where the item lacks its input.
    """
    before, placeholder, after = task.history_template.partition("{article}")
    article = item_article(task, item) if placeholder else ""
    output = _field(task, item, task.output_field, ITEM_WORDS)
    answer = f" {output}" if output else None
    return Prompt(item_key(item), context, before, article, after, answer)


def query_prompt(task: Task, query: Query, *, context: str = "", white_space: WhiteSpace = "kept") -> Prompt:
    """The prompt that asks a query, its article with the `white_space` given.

    Raises DataError where its input has not LaMP's form.
    """
    parts = parse_input(task, query)
    article = cut_words(parts.pop("article"), ITEM_WORDS, white_space)
    before, _, after = task.query_template.partition("{article}")
    answer = None if query.output is None else f" {query.output}"
    return Prompt(query.id, context, before, article, after.format_map(parts), answer)


def context_block(profile: str | None, history: Sequence[str]) -> str:
    """What stands before a prompt: the profile, then the retrieved history lines, where there are any."""
    block = f"### User Profile:\n{profile}\n\n" if profile else ""
    return block + (f"### User History:\n{''.join(history)}\n\n" if history else "")


def history_line(task: Task, item: Item) -> str:
    """A history item as retrieval reads and shows it. Raises DataError where a required field is missing."""
    return fill(task, item, task.line_template, task.required, RETRIEVED_WORDS)


def fill(task: Task, item: Item, template: str, names: Iterable[str], words: int) -> str:
    """`template` with the item's fields `names`, at most `words` words of each.

    Raises DataError where a field is missing.
    """
    return template.format_map({name: _needed(task, item, name, words) for name in names})


def search_text(task: Task, article: str) -> str:
    """What BM25 looks for on behalf of an article."""
    return task.search_template.format(article=article)


def item_article(task: Task, item: Item) -> str:
    """The article of a history item, at most 768 words. Raises DataError where it is missing."""
    return _needed(task, item, task.input_field, ITEM_WORDS)


def item_key(item: Item) -> str:
    """The id of a history item, empty where it has none."""
    return str(item.get("id", ""))


def parse_input(task: Task, query: Query) -> dict[str, str]:
    """The parts of LaMP's prompt: `article`, and for LaMP-1 `option1` and `option2`.

    Raises DataError with the query's id and the expected form where they are not found.
    """
    found = re.search(task.input_pattern, query.input, flags=re.DOTALL)
    if found is None:
        raise DataError(
            f"the input of query {query.id!r} is not a {task.lamp} prompt: {_shorten(query.input)!r}",
            hint=f"Expected: {task.input_form}",
        )
    return found.groupdict()


def cut_words(text: str, limit: int, white_space: WhiteSpace = "kept") -> str:
    """The first `limit` words of `text`; where it has no more, the text as it is unless white space is collapsed."""
    words = text.split()
    return text if len(words) <= limit and white_space == "kept" else " ".join(words[:limit])


def _field(task: Task, item: Item, name: str, limit: int) -> str | None:
    """A field's text, a list joined by "; "."""
    value = item.get(name)
    if value is None:
        return None
    return cut_words(value if isinstance(value, str) else "; ".join(value), limit, task.white_space)


def _needed(task: Task, item: Item, name: str, limit: int) -> str:
    value = _field(task, item, name, limit)
    if value is None:
        raise DataError(
            f"the history item {item_key(item)!r} has no field {name!r}",
            hint=f"Items of {task.name} have the fields {', '.join(task.required)}.",
        )
    return value


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
