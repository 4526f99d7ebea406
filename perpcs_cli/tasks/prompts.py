"""Prompts as the published Per-PCs code writes them: instruction, article, answer, and context in front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import WhiteSpace
from perpcs_cli.artifacts.task import pieces
from perpcs_cli.artifacts.users import Item, Query
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.lamp_queries import WORDINGS
from perpcs_cli.tasks.spec import Task


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
    return hashing.digest_values([prompt.text, prompt.answer] for prompt in prompts)


def history_prompt(task: Task, item: Item, *, context: str = "") -> Prompt:
    """The prompt that trains on a history item, answered where the item has the task's output.

    Raises DataError where the item lacks its input.
    """
    template = pieces(task.history_template)
    values = {name: _needed(task, item, name, task.item_words) for _, name in template if name}
    output = _field(task, item, task.output_field, task.item_words)
    answer = f" {output}" if output else None
    return Prompt(item_key(item), context, *_around(task, template, values), answer)


def query_prompt(task: Task, query: Query, *, context: str = "", white_space: WhiteSpace = "kept") -> Prompt:
    """The prompt that asks a query, its fields with the `white_space` given.

    Raises DataError where its input has not LaMP's form, or it lacks a field.
    """
    fields = query_fields(task, query)
    values = {name: cut_words(text, task.item_words, white_space) for name, text in fields.items()}
    answer = None if query.output is None else f" {query.output}"
    return Prompt(query.id, context, *_around(task, pieces(task.query_template), values), answer)


def context_block(profile: str | None, history: Sequence[str]) -> str:
    """What stands before a prompt: the profile, then the retrieved history lines, where there are any."""
    block = f"### User Profile:\n{profile}\n\n" if profile else ""
    return block + (f"### User History:\n{''.join(history)}\n\n" if history else "")


def history_line(task: Task, item: Item) -> str:
    """A history item as retrieval reads and shows it. Raises DataError where a required field is missing."""
    return fill(task, item, task.line_template, task.required, task.retrieved_words)


def fill(task: Task, item: Item, template: str, names: Iterable[str], words: int) -> str:
    """`template` with the item's fields `names`, at most `words` words of each.

    Raises DataError where a field is missing.
    """
    return template.format_map({name: _needed(task, item, name, words) for name in names})


def search_text(task: Task, fields: Mapping[str, str]) -> str:
    """What BM25 looks for on behalf of an item or a query with these fields."""
    return task.search_template.format_map(fields)


def item_fields(task: Task, item: Item) -> dict[str, str]:
    """The fields of a history item that a query has, too, as its prompt shows them.

    Raises DataError where one is missing.
    """
    return {name: _needed(task, item, name, task.item_words) for name in task.query_fields if name in task.required}


def item_key(item: Item) -> str:
    """The id of a history item, empty where it has none."""
    return str(item.get("id", ""))


def query_fields(task: Task, query: Query) -> dict[str, str]:
    """The fields of a query: its own, or for LaMP's tasks those that stand in its prompt.

    Raises DataError with the query's id, and the expected form, where they are not found.
    """
    if not task.lamp:
        if missing := [name for name in task.query_fields if name not in query.fields]:
            raise DataError(
                f"the query {query.id!r} has no field {missing[0]!r}",
                hint=f"Queries of {task.name} have the fields {', '.join(task.query_fields)}.",
            )
        return query.fields
    wording = WORDINGS[task.lamp]
    found = wording.fields(query.input)
    if found is None:
        raise DataError(
            f"the input of query {query.id!r} is not a {task.lamp} prompt: {_shorten(query.input)!r}",
            hint=f"Expected: {wording.form}",
        )
    return found


def typed_query(task: Task, text: str) -> Query:
    """The query, without an id, that someone asks by typing `text`: the one field that a query of the task has, LaMP's
    whole wording of it, or the fields of an own task as a JSON object.

    Raises UsageError where several fields are needed and others, or none, are given.
    """
    if task.lamp:
        wording = WORDINGS[task.lamp]
        # A text that quotes a part of the wording is no query yet.
        if text.split()[:3] != wording.form.split()[:3] or wording.fields(text) is None:
            if len(wording.names) > 1:
                raise UsageError(f"a query of {task.name} has several fields", hint=f"Write it as: {wording.form}")
            text = wording.form.replace("TEXT", text)
        return Query(id="", input=text)
    names = list(task.query_fields)
    if len(names) == 1:
        return Query(id="", fields={names[0]: text})
    try:
        fields = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError:
        fields = {}
    if set(fields) != set(names):
        example = ", ".join(f'"{name}": "…"' for name in names)
        raise UsageError(f"a query of {task.name} has several fields", hint=f"Write it as JSON: {{{example}}}")
    return Query(id="", fields=fields)


def _around(task: Task, template: Sequence[tuple[str, str | None]], values: Mapping[str, str]) -> tuple[str, str, str]:
    """A filled template as (what stands before the input field, that field, what stands after it)."""
    sides, article = [""], ""
    for text, name in template:
        sides[-1] += text
        if name == task.input_field:
            article = values[name]
            sides.append("")
        elif name is not None:
            sides[-1] += values[name]
    return sides[0], article, "".join(sides[1:])


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
