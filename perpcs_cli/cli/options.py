"""The option types that several commands share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

from perpcs_cli.artifacts.users import User
from perpcs_cli.artifacts.workspace import DtypeName, Merge, Schedule
from perpcs_cli.cli.context import Context, open_context, selected
from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Shown, Source

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", "-w", envvar="PERPCS_WORKSPACE", help="Directory with perpcs.toml and the artifacts."),
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", envvar="PERPCS_TASK", help="LaMP task, as movie_tagging or LaMP_2M. [default: perpcs.toml]"),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="PERPCS_MODEL",
        help="Base model: a name from `perpcs model list`, a local directory or a hub id. [default: perpcs.toml]",
    ),
]
TaskAdapterOption = Annotated[
    str | None,
    typer.Option(
        "--task-adapter",
        envvar="PERPCS_TASK_ADAPTER",
        help="Task adapter from `perpcs adapt`, merged into the base; 'none' for none. [default: perpcs.toml]",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", envvar="PERPCS_DEVICE", help="auto, cpu, cuda, cuda:N or mps. [default: perpcs.toml, else auto]"
    ),
]
DtypeOption = Annotated[
    DtypeName | None,
    typer.Option(
        "--dtype", envvar="PERPCS_DTYPE", help="Number type; auto: by the device. [default: perpcs.toml, else auto]"
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", envvar="PERPCS_SEED", min=0, help="Seed of everything random. [default: perpcs.toml, else 0]"
    ),
]
UsersFileOption = Annotated[
    Path | None, typer.Option("--users-file", help="The users. [default: users.jsonl of the workspace]")
]
UserOption = Annotated[list[str] | None, typer.Option("--user", metavar="<id>", help="A user; may be repeated.")]
UsersOption = Annotated[
    str | None,
    typer.Option("--users", metavar="<ids>", help="Users, separated by commas, or @FILE with one id a line."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No talk and no progress on stderr.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

PoolOption = Annotated[Path | None, typer.Option("--pool", help="The manifest. [default: pool.json of the workspace]")]
RecentOption = Annotated[
    int | None, typer.Option("--recent", min=1, help="Only the newest items of each history. [default: all]")
]
SourceOption = Annotated[
    Source | None,
    typer.Option("--source", help="Adapt on the queries, the history or both. [default: the queries, where there are]"),
]
HoldOutOption = Annotated[
    float,
    typer.Option("--hold-out", min=0, max=0.99, help="Share of each history that training never sees."),
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="<name>", help="Only this experiment; may be repeated.")
]
MergeOption = Annotated[
    Merge | None,
    typer.Option("--merge", help="Sum w·BA (the paper), or (Sum w·B)(Sum w·A) (the code). [default: perpcs.toml]"),
]
TogetherOption = Annotated[
    int, typer.Option("--together", min=1, help="Train so many users in the same batches: faster on a GPU.")
]


@dataclass(frozen=True)
class BaseFlags:
    """The flags of every command that runs the base model."""

    workspace: WorkspaceOption = Path()
    task: TaskOption = None
    model: ModelOption = None
    task_adapter: TaskAdapterOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    seed: SeedOption = None
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=8, help="Longest sequence in tokens. [default: perpcs.toml]")
    ] = None
    quiet: QuietOption = False

    def open(self, **sections: Mapping[str, object]) -> Context:
        """Open the workspace; `sections` are given flags for a section of perpcs.toml."""
        names = ("task", "model", "task_adapter", "device", "dtype", "seed", "max_length")
        return open_context(self.workspace, **{name: getattr(self, name) for name in names}, **sections)


@dataclass(frozen=True)
class UserFlags:
    """Which users a command works on."""

    user: UserOption = None
    users: UsersOption = None
    users_file: UsersFileOption = None

    def select(self, context: Context, *defaults: str) -> list[User]:
        """The users asked for, else those of the first list in splits/ that exists among `defaults`, else all."""
        return selected(context, self.users_file, self.user, self.users, *defaults)[1]


@dataclass(frozen=True)
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
class TrainingFlags:
    """The flags of every command that trains; each overrides a key of the command's section in perpcs.toml."""

    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Examples per batch. [default: perpcs.toml]")
    ] = None
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the examples. [default: perpcs.toml]")
    ] = None
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimizer steps, instead of epochs. [default: perpcs.toml]")
    ] = None
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate of AdamW. [default: perpcs.toml]")] = None
    schedule: Annotated[
        Schedule | None, typer.Option("--schedule", help="How the rate falls. [default: perpcs.toml]")
    ] = None
    warmup: Annotated[
        float | None, typer.Option("--warmup", help="Share of the steps to warm up in. [default: perpcs.toml]")
    ] = None
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help="AdamW's weight decay. [default: perpcs.toml]")
    ] = None
    clip: Annotated[
        float | None, typer.Option("--clip", help="Largest gradient norm; 0 for no clipping. [default: perpcs.toml]")
    ] = None
    accumulate: Annotated[
        int | None, typer.Option("--accumulate", min=1, help="Batches per step. [default: perpcs.toml]")
    ] = None
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing",
            help="Recompute activations: less memory, more time. [default: perpcs.toml]",
        ),
    ] = None

    def given(self) -> dict[str, object]:
        """The flags as a layer over the settings' section; `--epochs` also overrides stored steps."""
        given = layer(vars(self))
        return {"steps": None, **given} if self.epochs and not self.steps else given


@dataclass(frozen=True)
class LoraFlags:
    """The shape of a new adapter."""

    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Rank of the LoRA. [default: perpcs.toml]")] = None
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="The LoRA's scale is alpha / rank. [default: perpcs.toml]")
    ] = None
    dropout: Annotated[
        float | None, typer.Option("--dropout", help="Dropout of the LoRA's input. [default: perpcs.toml]")
    ] = None

    def given(self) -> dict[str, object]:
        """The flags as a layer over the settings' section."""
        return layer(vars(self))


def layer(flags: Mapping[str, object]) -> dict[str, object]:
    """The flags that were given, as a layer over settings."""
    return {key: value for key, value in flags.items() if value is not None}


def takes(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command declare a group of flags as one parameter: `def gate(base: BaseFlags, …)`."""

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        packed = {name: p.annotation for name, p in signature.parameters.items() if p.annotation in groups}
        parameters = [p for name, p in signature.parameters.items() if name not in packed]
        for group in packed.values():
            hints = get_type_hints(group, include_extras=True)
            parameters += [
                inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
                for f in fields(group)
            ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]

        def run(**given: object) -> None:
            bundles = {
                name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in packed.items()
            }
            command(**given, **bundles)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return wrap
