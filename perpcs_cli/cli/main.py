"""The table of commands, loaded when they are called, and the one error boundary."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perpcs_cli import __version__
from perpcs_cli.cli import process
from perpcs_cli.errors import PerpcsError

PANELS: dict[str, dict[str, tuple[str, str]]] = {
    "Workspace": {
        "init": ("workspace.init:init", "Make a workspace."),
        "status": ("workspace.status:status", "Say what is done, stale or missing, and what comes next."),
        "show": ("workspace.show:show", "Show what a file holds."),
        "validate": ("workspace.validate:validate", "Check a file, or all files of a directory."),
        "doctor": ("workspace.doctor:doctor", "Say what this machine is like, and try perpcs on it."),
        "task": ("workspace.tasks:app", "List tasks, and check the file of an own one."),
        "model": ("workspace.models:app", "Fetch and list small models to work with."),
        "completion": ("workspace.completion:completion", "Print the completion script of a shell."),
    },
    "Data": {
        "fetch": ("data.fetch:app", "Fetch the official data of a benchmark, and import it."),
        "import": ("data.import_:import_", "Read users from LaMP's and other layouts."),
        "synth": ("data.synth:synth", "Make a small synthetic data set."),
        "split": ("data.split:split", "Divide users into base users, targets and candidates."),
        "prompt": ("data.prompt:prompt", "Show exactly what the model sees."),
        "profile": ("data.profile:profile", "Write users' textual profiles with a language model."),
        "embed": ("data.embed:embed", "Embed the users' histories or profiles."),
        "select": ("data.select:select", "Select the sharers among the candidates."),
    },
    "Share": {
        "adapt": ("share.adapt:adapt", "Adapt the base model to the task."),
        "train-sharer": ("share.train_sharer:train_sharer", "Train a LoRA for each user."),
        "adopt": ("share.adopt:adopt", "Take LoRAs that were trained elsewhere as sharers."),
        "gate": ("share.gate:gate", "Train gates for sharers' pieces."),
        "pool": ("share.pool:app", "Build, list, verify and undo what sharers give."),
    },
    "Personalize": {
        "assemble": ("personalize.assemble:assemble", "Assemble target users' recipes from the pool."),
        "similar": ("personalize.similar:similar", "List the sharers most like a user."),
        "retrieve": ("personalize.retrieve:retrieve", "Merge the most similar sharers' LoRAs."),
        "prime": ("personalize.prime:prime", "Search the weights of similar sharers' LoRAs."),
        "export": ("personalize.export:export", "Write a recipe as a PEFT adapter or as full weights."),
    },
    "Evaluate": {
        "predict": ("evaluate.predict:predict", "Answer the users' queries."),
        "chat": ("evaluate.chat:chat", "Compare the base's answers with a user's personalized ones."),
        "eval": ("evaluate.eval_:eval_", "Evaluate predictions with LaMP's metrics."),
        "mia": ("evaluate.mia:mia", "Attack models by membership inference."),
        "audit": ("evaluate.audit:audit", "Report what a pool and its recipes give away."),
    },
    "Experiments": {
        "plan": ("experiments.plan:plan", "Estimate a sweep's memory, time and disk."),
        "sweep": ("experiments.sweep:sweep", "Run a grid of settings into one table of results."),
        "workflow": ("experiments.workflow:workflow", "Write a Snakemake workflow of a workspace or a sweep."),
        "table": ("experiments.table:table", "Lay out a sweep's results as the papers' tables."),
        "report": ("experiments.report:report", "Write one page of all that was found."),
        "bench": ("bench.app:app", "Measure the engine on this machine."),
    },
}
"""The folders of this floor → command → (where it lives there, its help in one line)."""
COMMANDS = {name: command for panel in PANELS.values() for name, command in panel.items()}


class Commands(TyperGroup):
    """Loads a command when it is called, and prints what a user caused as one clean message."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All commands, in the order of a workflow."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        place, line = COMMANDS[cmd_name]
        module, _, name = place.partition(":")
        target = getattr(import_module(f"perpcs_cli.cli.{module}"), name)
        if not isinstance(target, typer.Typer):
            from perpcs_cli.cli.command import Command

            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(cmd_name, short_help=line, cls=Command)(target)
            target = single
        command = typer.main.get_command(target)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The lists in `perpcs --help`, without loading any command."""
        width = max(map(len, COMMANDS))
        for title, panel in PANELS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", line) for name, (_, line) in panel.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command. `PERPCS_DEBUG=1` lets the traceback through."""
        try:
            return super().invoke(ctx)
        except PerpcsError as error:
            _stop(error)
        except KeyboardInterrupt as error:
            raise typer.Exit(process.stopped(error)) from None
        except BrokenPipeError:
            # The reader of our stdout has gone, as with `| head`.
            raise typer.Exit(0) from None
        except UnicodeEncodeError as error:
            if sys.getfilesystemencoding() == "utf-8":
                raise
            what = f"the locale's encoding {error.encoding!r} cannot name the file {error.object!r}"
            _stop(PerpcsError(what, hint="Set LC_ALL=C.UTF-8, or PYTHONUTF8=1."))
        except OSError as error:
            _stop(PerpcsError(error.strerror or str(error), where=error.filename))
        except MemoryError:
            _stop(PerpcsError("this machine has too little memory", hint="Ask for less at a time, or of less data."))
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            hint = "Use a smaller batch size or --max-length, --checkpointing when training, or another --dtype."
            _stop(PerpcsError("the device has too little memory", hint=hint))


def _stop(error: PerpcsError) -> None:
    if os.environ.get("PERPCS_DEBUG"):
        raise error
    process.talk(f"error: {error}\n")
    raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    name="perpcs",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perpcs {__version__}")
        raise typer.Exit()


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Personalize language models by sharing and recombining LoRA pieces."""
