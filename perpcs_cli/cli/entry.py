"""The entry point: streams and signals are made ready before anything else is loaded."""

from __future__ import annotations

import sys

from perpcs_cli.cli import process
from perpcs_cli.errors import PerpcsError


def run() -> None:
    """The entry point of the `perpcs` command."""
    try:
        process.set_streams()
        process.heed_signals()
        from typer._completion_classes import completion_init

        from perpcs_cli.cli.main import app

        # The app answers the shells' completion scripts; Typer lets it only with its --install-completion option.
        completion_init()
        app()
    except KeyboardInterrupt as error:
        sys.exit(process.stopped(error))
    except OSError as error:
        # Help that cannot be written; the rest is seen to where commands are run.
        process.talk(f"error: {PerpcsError(error.strerror or str(error), where=error.filename)}\n")
        sys.exit(1)
