"""LaMP's official files: which there are of a task, and where they lie below the server's address.

Source: https://lamp-benchmark.github.io/download.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.spec import Task

BASE_URL = "https://ciir.cs.umass.edu/downloads/LaMP"
Separation = Literal["user", "time"]
"""How LaMP divides the data: other users in each part, or the same users' later items."""


class Part(StrEnum):
    """LaMP's parts. The test's answers are not published."""

    train = "train"
    dev = "dev"
    test = "test"


_FOLDERS = {"LaMP_2M": "LaMP_2/new", "LaMP_2N": "LaMP_2"}
"""Movie tagging took news categorization's number."""


def paths_of(task: Task, separation: Separation, part: Part) -> list[str]:
    """Below the server's address: the questions of a part of LaMP's data and, but for the test, their answers.

    Raises UsageError for a task that is none of LaMP's.
    """
    if not task.lamp:
        raise UsageError(f"{task.name} is no task of LaMP's", where="--task", hint="Give LaMP's number, as --task 4.")
    folder = _FOLDERS.get(task.lamp, task.lamp)
    place = f"{'time/' if separation == 'time' else ''}{folder}/{part}/{part}"
    kinds = ["questions"] if part is Part.test else ["questions", "outputs"]
    return [f"{place}_{kind}.json" for kind in kinds]
