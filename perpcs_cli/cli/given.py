"""What no value on a command line or in a variable can be, whatever it is of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import typer

from perpcs_cli.artifacts.io.limits import LARGEST

LONGEST = 400
"""Characters of a number; longer ones are not looked at."""


def check_values(command: Any, context: Any, arguments: list[str]) -> None:
    """Raise BadParameter, which names the option, for a value that is empty, no text, or no finite number."""
    words, _, _ = command.make_parser(context).parse_args(args=list(arguments))
    if context.resilient_parsing or words.get("help"):
        return
    for parameter in command.get_params(context):
        given = words.get(parameter.name)
        given = parameter.value_from_envvar(context) if given is None else given
        kind = parameter.type_descriptor.annotation
        for text in given if isinstance(given, list | tuple) else [given]:
            wrong = problem(text, kind) if isinstance(text, str) else None
            if isinstance(text, str) and _is_written(parameter):
                wrong = wrong or problem_of_place(Path(text))
            if wrong:
                raise typer.BadParameter(wrong, ctx=context, param=parameter)


def problem(text: str, kind: Any) -> str | None:
    """What is wrong with a value of the type `kind`, or None."""
    if not text:
        return "is empty."
    if "\0" in text:
        return f"{text!r} holds a NUL character."
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        return f"{text!r} is no text in the locale's encoding. Set LC_ALL=C.UTF-8, or give it as UTF-8."
    if kind in (int, float):
        return _problem_of_number(text, kind)
    return None


def _is_written(parameter: Any) -> bool:
    """Whether it is the place of something that is written: see `flags.written`."""
    info = parameter.type_descriptor.parameter_info
    return bool(info) and (info.writable or not (info.file_okay and info.dir_okay))


def problem_of_place(path: Path) -> str | None:
    """Why nothing can be written at `path`, or None. A link to a directory is one."""
    if path.is_symlink() and not path.is_dir():
        return f"'{path}' is a link, and would be replaced. Give what it points to."
    if path.exists():
        return None if path.is_file() or path.is_dir() else f"'{path}' is no file."
    above = next((one for one in path.parents if one.exists()), path)
    return f"'{path}' cannot be: '{above}' is no directory." if above != path and not above.is_dir() else None


def _problem_of_number(text: str, kind: type[int] | type[float]) -> str | None:
    if len(text) > LONGEST:
        return f"has {len(text)} characters, and is no number that is read."
    try:
        value = kind(text)
    except ValueError:
        # What it is instead is said where it is converted.
        return None
    if not math.isfinite(value):
        return f"{text} is not a finite number."
    return f"{text} is too large a number." if kind is int and abs(value) > LARGEST else None
