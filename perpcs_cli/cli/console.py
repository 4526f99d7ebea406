"""The only place that prints: data to stdout; talk, warnings and progress to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from perpcs_cli.cli import process


class Bar:
    """A progress bar, or the place of one that is not shown."""

    def __init__(self, update: Callable[[int, str], None]) -> None:
        self._update = update

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Go on by `steps`, with a word on what was done."""
        self._update(steps, text)

    def loss(self, value: float) -> None:
        """Go on by one training step."""
        self._update(1, f"loss {value:.3f}")


class Console:
    """The output of one command. `json`: stdout is one JSON value. `quiet`: no talk and no progress.

    Without `data` results are not shown: the command is a step of another one.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, data: bool = True) -> None:
        self.json = json
        self.quiet = quiet
        self._shows = data

    def data(self, text: str) -> None:
        """Write a result to stdout as it is."""
        if self._shows and text:
            process.show(text if text.endswith("\n") else text + "\n")

    def result(self, value: object, text: str) -> None:
        """Write a result: `value` as JSON with `--json`, else `text`."""
        self.data(process.portable(msgspec.json.format(msgspec.json.encode(value), indent=2)) if self.json else text)

    def note(self, message: str) -> None:
        """Say something to a person."""
        if not self.quiet:
            self._talk(message)

    def guides(self) -> bool:
        """Whether a person reads along, who may be told what comes next."""
        return self._shows and not self.quiet and not self.json and sys.stderr.isatty()

    def warn(self, message: str) -> None:
        """Say something that a person must not miss; `quiet` does not silence it."""
        self._talk(f"warning: {message}")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Bar]:
        """A progress bar on a terminal; nothing elsewhere."""
        if self.quiet or total == 0 or not sys.stderr.isatty():
            yield Bar(lambda steps, text: None)
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total, text="")
            yield Bar(lambda steps, text: bar.update(task, advance=steps, text=text))

    def _talk(self, message: str) -> None:
        process.talk(message + "\n")
