"""Flags that commands share, and groups of flags: each is declared once, with one meaning in every command.

One room, though long: it is the one place to look whether a flag is there already.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from perpcs_cli.artifacts.settings import DtypeName, Merge, Quantize, Weighting
from perpcs_cli.artifacts.users import read_ids
from perpcs_cli.cli.command import panel
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.setting_flags import Section, from_environment, over, setting
from perpcs_cli.cli.tables import TableFormat
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.shards import Shard
from perpcs_cli.steps.workspace import Places, Who, Workspace, open_workspace
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Shown, Source

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", "-w", envvar="PERPCS_WORKSPACE", help="Directory with perpcs.toml and the artifacts."),
]
TaskOption = Annotated[str | None, setting("task")]
ModelOption = Annotated[str | None, setting("model")]
DeviceOption = Annotated[str | None, setting("device")]
DtypeOption = Annotated[DtypeName | None, setting("dtype")]
QuantizeOption = Annotated[Quantize | None, setting("quantize")]
SeedOption = Annotated[int | None, setting("seed")]
UsersFileOption = Annotated[
    Path | None, typer.Option("--users-file", help="The users.", show_default="users.jsonl of the workspace")
]
UserOption = Annotated[list[str] | None, typer.Option("--user", metavar="<id>", help="A user; may be repeated.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what exists.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

PoolOption = Annotated[
    Path | None, typer.Option("--pool", help="The pool's manifest.", show_default="pool.json of the workspace")
]
SharersOption = Annotated[
    Path | None, typer.Option("--sharers", help="Directory of the sharers.", show_default="sharers of the workspace")
]
EmbeddingsOption = Annotated[
    Path | None, typer.Option("--embeddings", help="User embeddings.", show_default="as `perpcs embed` writes them")
]
TracesOption = Annotated[
    Path | None,
    typer.Option("--traces", help="Directory of PriME's traces.", show_default="traces of the workspace"),
]
RecipesOption = Annotated[
    list[Path] | None, typer.Option("--recipes", metavar="<path>", help="Directory, or a packed file, of recipes.")
]
OwnOption = Annotated[
    list[Path] | None, typer.Option("--own", metavar="<path>", help="Directory of users' own adapters (OPPU).")
]
RecentOption = Annotated[
    int | None, typer.Option("--recent", min=1, help="Only the newest items of each history.", show_default="all")
]
SourceOption = Annotated[
    Source | None,
    typer.Option(
        "--source", help="Adapt on the queries, the history or both.", show_default="the queries, where there are any"
    ),
]
HoldOutOption = Annotated[
    float, typer.Option("--hold-out", min=0, max=0.99, help="Share of each history that training never sees.")
]
ExperimentOption = Annotated[
    list[str] | None,
    typer.Option("--experiment", metavar="<name>", help="Only this experiment; may be repeated."),
]
MergeOption = Annotated[Merge | None, setting("prime.merge")]
SimilarOption = Annotated[int | None, setting("prime.similar")]
AllSimilarOption = Annotated[
    int | None,
    typer.Option("--similar", min=1, help="How many of the most similar sharers.", show_default="all"),
]
TemperatureOption = Annotated[float, typer.Option("--temperature", help="Temperature of the softmax.")]
TogetherOption = Annotated[
    int | None, typer.Option("--together", min=1, help="Train so many users side by side.", show_default="8; DP: 1")
]
WeightsOption = Annotated[
    Weighting,
    typer.Option("--weights", help="Softmax of the similarities, equal weights, or the nearest sharer alone."),
]
TargetsOption = Annotated[int, typer.Option("--targets", min=1, help="How many targets.")]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the model, for files and tables.", show_default="what is given")
]
ResamplesOption = Annotated[int, typer.Option("--resamples", min=0, help="Bootstrap resamples; 0 for none.")]
BaselineOption = Annotated[str | None, typer.Option("--baseline", help="The system that the others are compared with.")]
DataOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="<path>",
        help="Directory or file for `perpcs import`; may be repeated.",
        show_default="as the config says",
    ),
]
SummariesOption = Annotated[
    list[Path] | None,
    typer.Option("--mia", metavar="<path>", help="A summary of `perpcs mia`, or a directory of them; may be repeated."),
]
Kind = Literal["file", "directory", "directory or file"]
FormatOption = Annotated[
    TableFormat | None, typer.Option("--format", help="How to print the table.", show_default="table")
]


def form_of(form: TableFormat | None, console: Console) -> TableFormat:
    """How a table is printed. Raises UsageError for a form and --json together."""
    if form and console.json:
        raise UsageError("give one", where="--format and --json")
    return form or "table"


def check_directories(given: Sequence[Path] | None, flag: str) -> None:
    """Raise UsageError for one that is none: nothing would be found there, without a word."""
    for path in given or ():
        if not path.is_dir():
            raise UsageError(f"no such directory: {path}", where=flag)


def count_option(default: str) -> Any:
    """The flag --count of a command that takes `default` without it."""
    return typer.Option("--count", min=1, help="How many users.", show_default=default)


def answers_option(default: str) -> Any:
    """The flag --answers of a command that shows `default` answers without it."""
    what = "Show so many answers of each user, side by side; 0 for none."
    return typer.Option("--answers", min=0, help=what, show_default=default)


def out_option(default: str | bool, kind: Kind) -> Any:
    """The flag --out of a command that writes a file or into a directory, to `default` without it."""
    return written("--out", "-o", help="Where it is written.", show_default=default, kind=kind)


def written(*names: str, kind: Kind, **more: Any) -> Any:
    """A flag of a file or directory that is written: another kind of thing there is refused before the work."""
    more |= {"file_okay": kind != "directory", "dir_okay": kind != "file", "writable": kind == "directory or file"}
    return typer.Option(*names, **more)


def protocol_option(default: str) -> Any:
    """The flag --protocol of a command that takes `default` without it."""
    what = "Where non-members come from: other users, or the same users' held-out items."
    return typer.Option("--protocol", help=what, show_default=default)


def named(ids: str, flag: str) -> list[str]:
    """The ids that a flag lists: separated by commas, or @FILE with one id a line. Raises UsageError for none."""
    if ids.startswith("@"):
        return read_ids(Path(ids[1:]))
    names = [name.strip() for name in ids.split(",") if name.strip()]
    if not names:
        raise UsageError("names no user", where=flag, hint="Give ids separated by commas, or @FILE.")
    return names


def layered(sections: Sequence[Section]) -> dict[str, dict[str, Any]]:
    """The settings of all sections that the environment gives, with the flags of `sections` over them."""
    found = from_environment(os.environ)
    for section in sections:
        found[section.name] = over(found.get(section.name, {}), section.given)
    return {name: over(layer) for name, layer in found.items()}


@dataclass(frozen=True)
class WriteFlags:
    """The flags of every command that writes."""

    force: ForceOption = False
    dry_run: DryRunOption = False

    def mode(self, console: Console) -> dict[str, Any]:
        """How a step runs: over what exists or not, for real or not, and who is told."""
        return {"force": self.force, "dry_run": self.dry_run, "report": console}


@dataclass(frozen=True)
@panel("Workspace and model")
class BaseFlags:
    """The flags of every command that runs the base model."""

    workspace: WorkspaceOption = Path()
    task: TaskOption = None
    model: ModelOption = None
    task_adapter: Annotated[str | None, setting("task_adapter")] = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    quantize: QuantizeOption = None
    seed: SeedOption = None
    max_length: Annotated[int | None, setting("max_length")] = None

    def open(self, *sections: Section) -> Workspace:
        """Open the workspace with these flags and those of some sections."""
        names = ("task", "model", "task_adapter", "device", "dtype", "quantize", "seed", "max_length")
        given = {name: getattr(self, name) for name in names}
        return open_workspace(self.workspace, **given, **layered(sections))


@dataclass(frozen=True)
@panel("Workspace and model")
class TaskFlags:
    """The flags of commands that need a workspace and its task, and no model."""

    workspace: WorkspaceOption = Path()
    task: TaskOption = None

    def open(self, *sections: Section, **given: Any) -> Workspace:
        """Open the workspace with this task, other settings of the top and the flags of some sections."""
        return open_workspace(self.workspace, task=self.task, **given, **layered(sections))


@dataclass(frozen=True)
@panel("Workspace and model")
class PlaceFlags:
    """The flags of commands that need a workspace's places alone."""

    workspace: WorkspaceOption = Path()

    @property
    def places(self) -> Places:
        """Where the files are."""
        return Places(self.workspace)


@dataclass(frozen=True)
class SweepFlags:
    """The flags of commands that read a sweep's config: what holds instead of what it says."""

    data: DataOption = None
    experiment: ExperimentOption = None
    task: TaskOption = None
    model: ModelOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None

    @property
    def given(self) -> dict[str, Any]:
        """The settings of the top that were given."""
        return layer({name: getattr(self, name) for name in ("task", "model", "device", "dtype")})


@dataclass(frozen=True)
@panel("Users")
class UserFlags:
    """Which users a command works on."""

    user: UserOption = None
    users: Annotated[
        str | None,
        typer.Option("--users", metavar="<ids>", help="Users, separated by commas, or @FILE with one id a line."),
    ] = None
    users_file: UsersFileOption = None

    def who(self) -> Who:
        """The users asked for. Raises UsageError where --users was given and names nobody."""
        listed = [] if self.users is None else named(self.users, "--users")
        return Who((*(self.user or ()), *listed), self.users_file)


@dataclass(frozen=True)
@panel("Users")
class ShardFlags(UserFlags):
    """The same, and which of them this job makes, where several do."""

    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="<I/N>", help="Only the I-th of N parts of the users, for several jobs."),
    ] = None

    def who(self) -> Who:
        """The users asked for, and this job's part of them. Raises UsageError for what is no part."""
        return replace(super().who(), shard=None if self.shard is None else _shard(self.shard))


def _shard(text: str) -> Shard:
    numbers = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, of = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= number <= of:
        raise UsageError(f"is a part like 1/4, from 1/N to N/N, not {text!r}", where="--shard")
    return Shard(number, of)


@dataclass(frozen=True)
@panel("Prompts")
class PromptFlags:
    """What prompts show of the user's history and profile."""

    retrieve: Annotated[
        int | None,
        typer.Option("--retrieve", min=0, metavar="<K>", help="Show the best K items of the history by BM25 (RAG)."),
    ] = None
    random_history: Annotated[
        int | None, typer.Option("--random-history", min=1, metavar="<K>", help="Show K random ones instead.")
    ] = None
    with_profile: Annotated[
        bool, typer.Option("--with-profile", help="Show the user's profile text (PAG); see `perpcs profile`.")
    ] = False

    def shown(self, default: Shown = PLAIN) -> Shown:
        """What the flags ask for, else `default`. Raises UsageError for two ways to choose items."""
        if self.retrieve and self.random_history:
            raise UsageError("choose one", where="--retrieve and --random-history")
        if self.retrieve is None and self.random_history is None and not self.with_profile:
            return default
        return Shown(retrieve=self.retrieve or 0, random_history=self.random_history or 0, profile=self.with_profile)


@dataclass(frozen=True)
@panel("Prompts")
class ExampleFlags(PromptFlags):
    """The same for training examples, which come with context and plain by default."""

    plain: Annotated[
        bool, typer.Option("--plain", help="Only plain prompts, without the examples with retrieved item and profile.")
    ] = False

    def examples(self) -> Shown:
        """What training examples show. Raises UsageError for flags that contradict each other."""
        shown = self.shown(PUBLISHED)
        if self.plain and shown != PUBLISHED:
            raise UsageError("shows nothing of the history", where="--plain", hint="Leave out --plain.")
        return PLAIN if self.plain else shown


@dataclass(frozen=True)
@panel("Similar sharers")
class SimilarityFlags:
    """Where similar sharers are looked for."""

    pool: PoolOption = None
    embeddings: EmbeddingsOption = None


def layer(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, as a layer over settings."""
    return {key: value for key, value in flags.items() if value is not None}
