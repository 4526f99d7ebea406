"""The only place that prints: data to stdout; talk, warnings and progress to stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.cli import process
from perpcs_cli.cli.terminal import window

if TYPE_CHECKING:
    from rich.console import RenderableType

PATIENCE_SECONDS = 2.0
"""What takes no longer needs no bar."""
AGAIN_SECONDS = 0.05
"""At least between two pictures of something that grows."""
EVERY_SECONDS = 30.0
"""Between two lines of progress where there is no terminal."""

WIDE, BAR, NUMBERS = 80, 20, 40
"""Columns: of a window in which there is a bar, of the bar, and of the numbers beside it."""


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
        """How far something long has come, with its rate and the time left, once it has taken two seconds.

        A bar on a terminal, a line every 30 seconds elsewhere; nothing where nobody reads along.
        """
        if self.quiet or self.json or total == 0:
            yield Bar(lambda steps, text: None)
        elif not window.moves(sys.stderr):
            lines = _Lines(label, total, self._talk)
            yield Bar(lines.advance)
        else:
            with _bar(label, total) as bar:
                yield bar

    @contextmanager
    def growing(self) -> Iterator[Callable[[RenderableType], None]]:
        """Show something that grows on a terminal while the block lasts; nothing is left of it at the end.

        Where nothing can be shown anew nothing is.
        """
        if self.json or not self._shows or not window.moves(sys.stdout):
            yield lambda shown: None
            return
        from rich.live import Live

        live = Live(
            console=window.rich_console(),
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stdout=False,
            redirect_stderr=False,
        )
        told = 0.0

        def show(shown: RenderableType) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= AGAIN_SECONDS:
                told = now
                live.update(shown, refresh=True)

        with live:
            yield show

    def _talk(self, message: str) -> None:
        process.talk(message + "\n")


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    def __init__(self, label: str, total: int, talk: Callable[[str], None]) -> None:
        self._label, self._total, self._talk = label, total, talk
        self._done = 0
        self._begin = self._told = time.monotonic()

    def advance(self, steps: int, text: str) -> None:
        """Count, and say so where it is time."""
        self._done += steps
        now = time.monotonic()
        if now - self._told < EVERY_SECONDS:
            return
        self._told = now
        rate = self._done / (now - self._begin)
        left = (self._total - self._done) / rate if rate else 0.0
        self._talk(f"{self._label}: {self._done} of {self._total}, {rate:.2g} a second, {spoken_seconds(left)} left")


def spoken_seconds(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def _bar(label: str, total: int) -> Iterator[Bar]:
    """A bar on a terminal, which appears when it has something to tell."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = RichConsole(stderr=True)
    # Where it is narrow, the numbers come first.
    wide = console.width >= WIDE
    room = max(8, console.width - NUMBERS - (BAR if wide else 0))
    label = label if len(label) <= room else f"{label[: room - 1]}…"
    columns = (
        TextColumn("{task.description}", markup=False),
        *([BarColumn(bar_width=BAR)] if wide else []),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[text]}", markup=False),
    )
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task(label, total=total, text="", rate="")

    def update(steps: int, text: str) -> None:
        speed = progress.tasks[task].speed
        progress.update(task, advance=steps, text=text, rate=f"{speed:.3g}/s" if speed else "")

    appear = threading.Timer(PATIENCE_SECONDS, progress.start)
    appear.daemon = True
    appear.start()
    try:
        yield Bar(update)
    finally:
        appear.cancel()
        appear.join()
        progress.stop()
