"""What a task's prompts look like, with made-up fields: to see what a file says before there is any data."""

from __future__ import annotations

import msgspec

from perpcs_cli.artifacts.users import Item, Query, User
from perpcs_cli.tasks.examples import history_prompts, query_prompts
from perpcs_cli.tasks.lamp_queries import WORDINGS
from perpcs_cli.tasks.profile_prompts import profile_lines, profile_prompt
from perpcs_cli.tasks.prompts import PLAIN, Shown
from perpcs_cli.tasks.spec import Task

SHOWN = {
    "a query": PLAIN,
    "a query, with a retrieved item (--retrieve 1)": Shown(retrieve=1),
    "a query, with the profile (--with-profile)": Shown(profile=True),
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, and its answer, which follows it."""

    what: str
    prompt: str
    answer: str


def sample_user(task: Task) -> User:
    """Somebody with two history items, a profile and a query; each field says which it is."""
    query = Query(
        id="q",
        input=WORDINGS[task.lamp].form if task.lamp else "",
        fields={} if task.lamp else _fields(task.query_fields, "the query"),
        output=_answer(task, 0, "the query"),
    )
    return User(
        user_id="somebody",
        history=[_item(task, number) for number in (1, 2)],
        queries=[query],
        profile="(the profile)",
    )


def sample_prompts(task: Task) -> list[Sample]:
    """The prompts of training, answering and writing a profile."""
    user = sample_user(task)
    trained = history_prompts(task, user)[0]
    samples = [Sample(what="a history item, to train on", prompt=trained.text, answer=trained.answer or "")]
    for what, shown in SHOWN.items():
        (asked,) = query_prompts(task, user, shown)
        samples.append(Sample(what=what, prompt=asked.text, answer=asked.answer or ""))
    asked = profile_prompt(task, user.user_id, profile_lines(task, user))
    return [*samples, Sample(what="the profile, as `perpcs profile` asks for it", prompt=asked.text, answer="")]


def _fields(names: tuple[str, ...], where: str) -> dict[str, str]:
    return {name: f"({name} of {where})" for name in names}


def _item(task: Task, number: int) -> Item:
    where = f"item {number}"
    return {**_fields(task.required, where), task.output_field: _answer(task, number, where)}


def _answer(task: Task, number: int, where: str) -> str:
    labels = task.for_history().labels if where != "the query" else task.labels
    return labels[number % len(labels)] if labels else f"({task.output_field} of {where})"
