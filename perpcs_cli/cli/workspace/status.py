"""`perpcs status`: where a workspace stands, and what comes next."""

from __future__ import annotations

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Styled, Table, render
from perpcs_cli.steps.inspect.step_state import State

STYLES: dict[State, str] = {
    "done": "green",
    "partial": "yellow",
    "stale": "magenta",
    "broken": "red",
    "missing": "dim",
}


@command
def status(console: Console, here: flags.PlaceFlags) -> None:
    """Say what is done, stale or missing, and what comes next.

    A step is stale where what it was made from has changed since. Only cards, manifests and digests are read; what
    was made with other settings than perpcs.toml has now is not called stale.
    """
    from perpcs_cli.steps.inspect.status import status as step
    from perpcs_cli.steps.inspect.step_state import spoken_bytes

    found = step(here.places)
    columns = [Column("step"), Column("state"), Column("what"), Column("size"), Column("why")]
    rows = [
        (
            one.name,
            Styled(one.state, STYLES[one.state]),
            one.what,
            spoken_bytes(one.bytes) if one.bytes else "",
            one.why,
        )
        for one in found.steps
    ]
    console.result(found, render(Table(columns, [rows]), "table") + f"next: {found.next}\n")
