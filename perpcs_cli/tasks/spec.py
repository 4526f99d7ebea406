"""Tasks: LaMP's seven, which are shipped as files, and anybody's own, from a file of the same form.

Sources of the shipped ones: LaMP (Salemi et al., 2024) for tasks, labels and metrics; the published Per-PCs code,
`prompt/prompt.json`, for the templates, whose line breaks are exact.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.metrics import ROUGE
from perpcs_cli.artifacts.settings import WhiteSpace
from perpcs_cli.artifacts.task import FORMAT, TaskFile, asked_fields, read_task_file
from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.lamp_queries import WORDINGS

SHIPPED = Path(__file__).with_name("shipped")
ORDER = (
    "citation",
    "movie_tagging",
    "news_category",
    "product_rating",
    "news_headline",
    "scholarly_title",
    "tweet_paraphrase",
)
"""LaMP's."""
LAMP_FIELDS = {lamp: wording.names for lamp, wording in WORDINGS.items()}
OWN = ".toml"
"""How the name of an own task ends: it is the path of its file."""
PROFILE_QUESTION = (
    "Look at the following past items of this user and describe how this user answers, so that somebody else could "
    "give the same answers. Only give the description, nothing else."
)


class Task(TaskFile, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag=FORMAT):
    """A task with everything that its file leaves open, and the white space that a workspace wants."""

    white_space: WhiteSpace = "kept"
    """Whether runs of white space in an item's fields become one space."""
    file: Path
    """Where it was read from."""

    @property
    def is_own(self) -> bool:
        """Whether it is not one of the shipped."""
        return self.file.parent != SHIPPED

    @property
    def file_name(self) -> str:
        """What its copy in a workspace is called."""
        return own_file(self.name)

    @property
    def digest(self) -> str:
        """SHA-256 of all in its file that changes what is asked, and how answers are scored."""
        names = [name for name in TaskFile.__struct_fields__ if name not in ("title", "columns", "settings")]
        return hashing.digest_value({name: getattr(self, name) for name in names})

    @property
    def identity(self) -> dict[str, str]:
        """What provenance says of it: its name, and of an own one what it is besides."""
        return {"task": self.name, **({"task_sha256": self.digest} if self.is_own else {})}

    @property
    def texts(self) -> set[str]:
        """Its prompts, labels and names: texts that are no user's own."""
        values = [value for value in msgspec.structs.asdict(self).values() if isinstance(value, str | tuple)]
        return {text for value in values for text in (value if isinstance(value, tuple) else (value,))}

    def for_history(self) -> Task:
        """The task that the history poses: citation generation with ROUGE in LaMP-1, else the task itself."""
        if not self.generates_history:
            return self
        return msgspec.structs.replace(self, labels=(), metrics=ROUGE, max_new_tokens=self.generates_history)

    def copy_to(self, directory: Path) -> None:
        """Put a copy of an own task's file into a directory, under its `file_name`."""
        data, path = self.file.read_bytes(), directory / self.file_name
        if not path.exists() or path.read_bytes() != data:
            with atomic.replacing(path) as temporary:
                temporary.write_bytes(data)


def own_file(name: str) -> str:
    """What the copy of an own task's file is called in a workspace, and beside the results of a sweep."""
    return f"{name}.task{OWN}"


def read_task(path: Path) -> Task:
    """The own task of a file. Raises DataError with everything that is wrong in it."""
    return _completed(read_task_file(path, LAMP_FIELDS, ORDER), path)


@cache
def shipped_tasks() -> dict[str, Task]:
    """LaMP's tasks by name."""
    paths = {name: SHIPPED / f"{name}.toml" for name in ORDER}
    return {name: _completed(read_task_file(path, LAMP_FIELDS), path) for name, path in paths.items()}


def _completed(found: TaskFile, path: Path) -> Task:
    """With what stands for the fields that were left empty."""
    asked = asked_fields(found)
    line = " ".join(f"{name.replace('_', ' ').capitalize()}: {{{name}}}" for name in found.required)
    defaults = {
        "title": found.name,
        "query_fields": asked,
        "history_template": found.query_template,
        "line_template": f"{line}\n",
        "search_template": " ".join(f"{{{name}}}" for name in asked if name in found.required),
        "profile_question": PROFILE_QUESTION,
        "profile_line": (found.line_template or line).strip(),
    }
    given = msgspec.structs.asdict(found)
    return Task(**{**given, **{key: value for key, value in defaults.items() if not given[key]}}, file=path)


def get_task(name: str) -> Task:
    """The task called `name`: its own name or LaMP's, as `LaMP_2M`, `lamp-2m` or `2m`, or the file of an own one, which
    ends in `.toml`. `LaMP_2` is movie tagging.

    Raises UsageError for an unknown name and DataError for a broken file.
    """
    return read_task(Path(name)) if name.endswith(OWN) else named_task(name)


def kept_task(directory: Path, name: str) -> Task:
    """The task that a file in `directory` names, with the file of an own one beside it.

    Raises UsageError for an unknown name: a path is none, wherever it leads.
    """
    own = directory / own_file(name)
    return read_task(own) if re.fullmatch("[a-z][a-z0-9_]*", name) and own.exists() else named_task(name)


def named_task(name: str) -> Task:
    """The shipped task called `name`. Raises UsageError for an unknown one."""
    wanted = name.strip().lower().replace("-", "_")
    wanted = f"lamp_{wanted}" if re.fullmatch("[1-9][mn]?", wanted) else wanted
    for task in shipped_tasks().values():
        if wanted in (task.name, task.lamp.lower()):
            return task
    if wanted == "lamp_2":
        return shipped_tasks()["movie_tagging"]
    known = ", ".join(f"{task.name} ({task.lamp})" for task in shipped_tasks().values())
    raise UsageError(
        f"no such task: {name!r}", hint=f"The tasks are {known}; an own one is given by its file, as my{OWN}."
    )
