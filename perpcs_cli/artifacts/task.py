"""A task's TOML file: fields, prompts, labels, metrics, lengths, and where the fields stand in somebody's data.

Nothing in it is run: templates name fields and nothing else, and there are no patterns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from string import Formatter
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.metrics import ERROR, METRICS
from perpcs_cli.artifacts.settings import declared
from perpcs_cli.errors import DataError

FORMAT = "perpcs.task/1"
RESERVED = ("id", "date", "user_id")
"""Names of what every item may have besides the task's fields, and of its user."""

Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
Text = Annotated[str, Meta(min_length=1)]
Metric = Literal["accuracy", "f1", "mae", "rmse", "rouge-1", "rouge-L"]
Tokens = Annotated[int, Meta(ge=1, le=4096)]
Words = Annotated[int, Meta(ge=1, le=1 << 20)]


class Columns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file calls things: one user a record with lists of items, or one item a row."""

    user_id: Text = "user_id"
    id: Text = "id"
    """Of an item or a query."""
    date: Text = "date"
    profile: Text = "profile"
    """The user's textual profile."""
    history: Text = "history"
    """The list of items, where a record is a user."""
    queries: Text = "queries"
    """The list of queries, where a record is a user."""
    part: Text = "part"
    """Where a row is an item: the column that tells queries from history. Without it, all is history."""
    query_parts: tuple[str, ...] = ("query",)
    """What stands in that column for a query."""
    fields: dict[str, Text] = {}
    """Field of the task → its column, where that has another name."""
    answers: dict[str, str] = {}
    """What stands for an answer → the answer, as `1` for `yes`."""


class TaskFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag=FORMAT):
    """A task as its file has it. In templates, `{field}` is the text of a field."""

    name: Name
    title: str = ""
    """In a few words; by default the name."""
    lamp: str = ""
    """LaMP's id, as `LaMP_2M`, where the queries come as LaMP's own prompts; else they have fields."""
    required: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)]
    """Fields that every history item has."""
    optional: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    """Fields that a history item may have besides; `id` and `date` always may."""
    query_fields: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    """Fields of a query; by default those of an item but the answer."""
    input_field: Name
    """The field that an item or a query is about. It alone loses words where a prompt is too long for the model."""
    output_field: Name
    """The field of a history item that is its answer."""
    labels: Annotated[tuple[Text, ...], Meta(max_length=1000)] = ()
    """Every possible answer, of ratings the whole scale; empty where text is generated."""
    metrics: tuple[Metric, Metric]
    """`accuracy` and `f1` of labels, `mae` and `rmse` of ratings, `rouge-1` and `rouge-L` of text."""
    max_new_tokens: Tokens = 32
    """Longest answer."""
    item_words: Words = 768
    """Words kept of each field of the item or query itself."""
    retrieved_words: Words = 368
    """Words kept of each field of a retrieved item."""
    trains_with_context: bool = True
    """Whether training adds, for each item, an example with the profile and the best earlier item."""
    query_template: Text
    """The prompt of a query, up to its answer, which follows after a space."""
    history_template: str = ""
    """The prompt that trains on a history item; by default that of a query."""
    line_template: str = ""
    """One retrieved history item, ending with a line break; by default each field after its name."""
    search_template: str = ""
    """What BM25 looks for; by default the fields of a query."""
    generates_history: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Where the history asks for text and the query for a label: the most new tokens of that text."""
    profile_question: str = ""
    """Asks a model to describe a user by the history."""
    profile_line: str = ""
    """One history item below that question; by default as it is retrieved."""
    profile_more: str = ""
    """What follows it where the item has an answer besides."""
    columns: Columns = Columns()
    settings: dict[str, dict[str, Any]] = {}
    """Sections of `perpcs.toml` that `perpcs init` starts from, over those of LaMP's task with the same metrics."""


def read_task_file(path: Path, lamp: Mapping[str, Collection[str]], taken: Collection[str] = ()) -> TaskFile:
    """Read a task. `lamp`: the fields in LaMP's prompts by id; `taken`: names that other tasks have.

    Raises DataError where the file is missing or broken, with everything that is wrong in it.
    """
    content = typed_files.read_toml(path, FORMAT)
    del content["format"]
    problems, values = _typed(content)
    problems += [problem for needs, check in _CHECKS if needs <= vars(values).keys() for problem in check(values)]
    if given := getattr(values, "lamp", ""):
        problems += _lamp_problems(values, given, lamp)
    if "name" in vars(values) and values.name in taken:
        problems.append(f"name: {values.name!r} is the name of another task; take one of your own")
    if problems:
        what = problems[0] if len(problems) == 1 else f"{len(problems)} things are wrong"
        more = [] if len(problems) == 1 else [f"\n  {problem}" for problem in problems]
        hint = "docs/tasks.md describes the form; `perpcs task show movie_tagging` prints one."
        raise DataError(what + "".join(more), where=path, hint=hint)
    return TaskFile(**vars(values))


def _lamp_problems(task: SimpleNamespace, given: str, known: Mapping[str, Collection[str]]) -> Iterator[str]:
    if given not in known:
        yield f"lamp: {given!r:.60} is none of {', '.join(known)}"
    elif {"query_fields", "required", "input_field", "output_field"} <= vars(task).keys():
        for name in asked_fields(task):
            if name not in known[given]:
                yield f"query_fields: the prompts of {given} have no {name!r}, but {', '.join(sorted(known[given]))}"


def pieces(template: str) -> list[tuple[str, str | None]]:
    """A template as (text, name of the field after it, None at the end).

    Raises ValueError for braces without partner, and for anything but a plain name between them.
    """
    found = []
    for text, name, form, conversion in Formatter().parse(template):
        if name is not None and (not re.fullmatch(r"[a-z][a-z0-9_]*", name) or form or conversion):
            raise ValueError(f"{name!r} between braces is no field; a brace itself is written twice")
        found.append((text, name))
    return found


def _typed(content: dict[str, Any]) -> tuple[list[str], SimpleNamespace]:
    """(what is unknown, missing or of the wrong type, the fields that are not)."""
    problems, values = [], {}
    fields = {field.name: field for field in msgspec.structs.fields(TaskFile)}
    for key in content:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            problems.append(f"{key!r:.60}: there is no such key" + (f"; did you mean {near[0]}?" if near else ""))
    for name, field in fields.items():
        if name in content:
            try:
                values[name] = msgspec.convert(content[name], field.type)
            except msgspec.ValidationError as error:
                problems.append(f"{name}: {error}")
        elif field.required:
            problems.append(f"{name}: is missing")
        else:
            values[name] = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return problems, SimpleNamespace(**values)


def _check_fields(task: SimpleNamespace) -> Iterator[str]:
    names = [*task.required, *task.optional]
    for name in dict.fromkeys([*names, *task.query_fields]):
        if name in RESERVED:
            yield f"required, optional, query_fields: {name!r} is there without being named"
        if names.count(name) > 1:
            yield f"required, optional: {name!r} is named twice"
    if task.input_field not in task.required:
        yield f"input_field: {task.input_field!r} is none of the required fields {', '.join(task.required)}"
    if task.output_field not in names:
        yield f"output_field: {task.output_field!r} is none of the fields {', '.join(names)}"
    asked = asked_fields(task)
    if task.input_field not in asked:
        yield f"query_fields: lacks the input_field {task.input_field!r}"
    if task.output_field in asked and task.output_field != task.input_field:
        yield f"query_fields: holds the answer, {task.output_field!r}"


def asked_fields(task: Any) -> tuple[str, ...]:
    """The fields of a query: those that are named, or of an item but its answer."""
    same = task.input_field == task.output_field
    return task.query_fields or tuple(name for name in task.required if same or name != task.output_field)


def _check_answers(task: SimpleNamespace) -> Iterator[str]:
    if task.metrics not in METRICS:
        pairs = ", or ".join(" and ".join(pair) for pair in METRICS)
        yield f"metrics: are {pairs}, not {' and '.join(task.metrics)}"
    elif task.metrics == METRICS[-1]:
        if task.labels:
            yield f"labels: are not for {' and '.join(task.metrics)}, which score text"
    elif len(task.labels) < 2:
        yield f"labels: {' and '.join(task.metrics)} need two labels or more, every possible answer"
    if len(set(task.labels)) < len(task.labels):
        yield "labels: one is named twice"
    for label in task.labels:
        if label != label.strip():
            yield f"labels: {label!r:.60} begins or ends with white space"
        if task.metrics == ERROR and not re.fullmatch(r"-?[0-9]{1,6}(\.[0-9]{1,6})?", label):
            yield f"labels: {label!r:.60} is no number, and ratings are"
    for given, answer in task.columns.answers.items():
        if task.labels and answer not in task.labels:
            yield f"columns.answers: {given!r:.60} stands for {answer!r:.60}, which is none of the labels"


def _check_templates(task: SimpleNamespace) -> Iterator[str]:
    # Much can be said of templates where it is not known yet which fields these two are.
    task = SimpleNamespace(**{"input_field": None, "output_field": None, **vars(task)})
    asked = set(asked_fields(task))
    item = set(task.required) - {task.output_field}
    allowed = {
        "query_template": asked,
        "history_template": item,
        "line_template": set(task.required),
        "search_template": asked & set(task.required),
        "profile_line": set(task.required),
        "profile_more": {*task.required, task.output_field},
    }
    for key, names in allowed.items():
        own = getattr(task, key)
        template = own or (task.query_template if key == "history_template" else "")
        try:
            found = [name for _, name in pieces(template) if name is not None]
        except ValueError as error:
            if own:
                yield f"{key}: {error}"
            continue
        for name in dict.fromkeys(found):
            # Of a query's prompt that stands for a history item's, only what an item lacks is new.
            if name not in names and (own or name in asked):
                why = "is the answer" if name == task.output_field else "is not there"
                known = ", ".join(sorted(names)) or "none"
                yield f"{key}: {{{name}}} {why}; its fields can be {known}"
        if own and key in ("query_template", "history_template"):
            count = found.count(task.input_field)
            if task.input_field and (count > 1 or (key == "query_template" and count == 0)):
                yield f"{key}: names the input_field {{{task.input_field}}} {count} times, and once is right"
            if template != template.rstrip():
                yield f"{key}: ends with white space; the answer follows after a space"
    if task.line_template and not task.line_template.endswith("\n"):
        yield "line_template: must end with a line break"


def _check_columns(task: SimpleNamespace) -> Iterator[str]:
    for name in task.columns.fields:
        if name not in (*task.required, *task.optional, *task.query_fields):
            yield f"columns.fields: {name!r:.60} is no field of the task"


def _check_settings(task: SimpleNamespace) -> Iterator[str]:
    known = declared()
    for section, table in task.settings.items():
        for key, value in table.items():
            one = known.get(f"{section}.{key}")
            if one is None:
                yield f"settings.{section:.60}.{key:.60}: there is no such setting of a section"
            elif problem := one.problem(value):
                yield f"settings.{problem}"


_CHECKS = [
    ({"required", "optional", "query_fields", "input_field", "output_field"}, _check_fields),
    ({"metrics", "labels", "columns"}, _check_answers),
    (
        {"required", "query_fields", "query_template", "history_template"}
        | {"line_template", "search_template", "profile_line", "profile_more"},
        _check_templates,
    ),
    ({"required", "optional", "query_fields", "columns"}, _check_columns),
    ({"settings"}, _check_settings),
]
"""(the fields that a check reads, what it finds wrong)."""
