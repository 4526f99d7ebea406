"""How a function becomes a command: flags in groups, a console, help in panels with the defaults that hold."""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from perpcs_cli.cli import process
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.given import check_values
from perpcs_cli.cli.setting_flags import Section, defaults_in_force

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No talk and no progress on stderr.")]

G = TypeVar("G", bound=type)
ARGUMENTS = "perpcs.arguments"


def panel(title: str) -> Callable[[G], G]:
    """Show the flags of a group under a title of their own in help."""

    def mark(group: G) -> G:
        group.panel = title  # type: ignore[attr-defined]
        return group

    return mark


@panel("Output")
@dataclass(frozen=True)
class OutputFlags:
    """How a command shows what it found."""

    json: JsonOption = False
    quiet: QuietOption = False


class Command(TyperCommand):
    """Help lists options under titles, with the defaults that hold in the workspace."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the values before they are read, and keep the arguments for help, which is shown before that."""
        ctx.meta[ARGUMENTS] = list(args)
        check_values(self, ctx, args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options by panel; those of no panel first, output and help last."""
        defaults = defaults_in_force(ctx.meta.get(ARGUMENTS, []), os.environ)
        settings = getattr(self.callback, "settings", {})
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for one in self.get_params(ctx):
            parameter: Any = one
            parameter.show_default = defaults.get(settings.get(parameter.name, ""), parameter.show_default)
            if record := parameter.get_help_record(ctx):
                record = (record[0], re.sub(r"default: \((.*?)\)(?=[;\]])", r"default: \1", record[1]))
                title = "Arguments" if parameter.param_type_name == "argument" else ""
                title = title or getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault("Output" if parameter.name == "help" else title, []).append(record)
        last = sections.pop("Output", [])
        for title, records in [*sections.items(), ("Output", last)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command declare groups of flags as one parameter each, `def gate(base: BaseFlags, …)`, and get a console.

    A parameter of the type `Console` brings the flags --json and --quiet.
    """
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        kind = OutputFlags if parameter.annotation is Console else parameter.annotation
        if inspect.isclass(kind) and (is_dataclass(kind) or issubclass(kind, Section)):
            groups[name] = kind
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    members = {name: _members(kind) for name, kind in groups.items()}
    parameters += [member for some in members.values() for member in some]

    def run(context: typer.Context, **given: Any) -> None:
        bundles = {
            name: groups[name](**{member.name: given.pop(member.name) for member in some})
            for name, some in members.items()
        }
        for name, bundle in bundles.items():
            if isinstance(bundle, OutputFlags):
                own = Console(json=bundle.json, quiet=bundle.quiet)
                bundles[name] = context.obj if isinstance(context.obj, Console) else own
        function(**given, **bundles)
        if any(isinstance(bundle, Console) and bundle.guides() for bundle in bundles.values()):
            _name_successor(context)

    first = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__doc__ = function.__doc__
    run.__name__ = function.__name__
    run.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    run.settings = {p.name: path for p in parameters if (path := _setting_of(p))}  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [first, *parameters]}
    return run


def _name_successor(context: typer.Context) -> None:
    """Say, to a person, which command usually comes next; not of a dry run, nor where results went elsewhere."""
    from perpcs_cli.steps.inspect.status import NEXT

    given = context.params
    name = context.command_path.split(" ", 1)[-1]
    if name in NEXT and not given.get("dry_run") and not given.get("out"):
        process.talk(f"next: {NEXT[name]}\n")


def _setting_of(parameter: inspect.Parameter) -> str | None:
    """The path of the setting that a flag is of, if it is of one."""
    options = getattr(parameter.annotation, "__metadata__", ())
    return next((one.setting for one in options if hasattr(one, "setting")), None)


def _members(group: Any) -> list[inspect.Parameter]:
    """A group's flags as parameters, under the group's panel."""
    if issubclass(group, Section):
        found = group.parameters()
    else:
        hints = get_type_hints(group, include_extras=True)
        found = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in fields(group)
        ]
    title = getattr(group, "panel", None)
    return [_titled(parameter, title) for parameter in found] if title else found


def _titled(parameter: inspect.Parameter, title: str) -> inspect.Parameter:
    """The same flag under a panel; the declaration itself may serve other groups."""
    option = copy.copy(parameter.annotation.__metadata__[0])
    option.rich_help_panel = title
    return parameter.replace(annotation=Annotated[parameter.annotation.__origin__, option])
