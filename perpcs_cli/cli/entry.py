"""The entry point: streams and signals are made ready before anything else is loaded."""

from __future__ import annotations

import contextlib
import os
import sys

from perpcs_cli.cli import process
from perpcs_cli.errors import PerpcsError


def run() -> None:
    """The entry point of the `perpcs` command."""
    try:
        process.set_streams()
        process.heed_signals()
        if os.environ.get("_PERPCS_COMPLETE"):
            from perpcs_cli.cli.completions.answers import answer

            with contextlib.suppress(OSError):
                process.show(answer(sys.argv[1:]))
            return
        from perpcs_cli.cli.main import app

        app()
    except KeyboardInterrupt as error:
        sys.exit(process.stopped(error))
    except OSError as error:
        # Help that cannot be written; the rest is seen to where commands are run.
        process.talk(f"error: {PerpcsError(error.strerror or str(error), where=error.filename)}\n")
        sys.exit(1)
