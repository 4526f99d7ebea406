"""The candidates of PriME's searches that none beats in both scores, in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.atomic import refuse_existing
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.trace import Front, Pareto, TraceHeader, read_trace
from perpcs_cli.errors import DataError


def check_front(path: Path, users: Sequence[str], origin: Provenance) -> None:
    """Raise where something else stands at `path` than the front of these users' searches with these settings."""
    try:
        before = typed_files.read_json(path, Pareto)
    except DataError:
        before = None
    if before is None or sorted(before.users) != sorted(users):
        refuse_existing(path, force=False)
    else:
        check_same(before.provenance, origin, where=path)


def write_front(path: Path, traces: Mapping[str, tuple[Path, TraceHeader]], origin: Provenance) -> None:
    """Write the users' non-dominated candidates, of everything in their traces, unless the file holds just these.

    `traces`: user id → (the trace, the header that it must have). Raises DataError where it has another one.
    """
    from perpcs_cli.methods.prime.search import pareto

    fronts = {}
    for user_id, (trace, expected) in traces.items():
        header, rows = read_trace(trace)
        check_same(header.provenance, expected.provenance, where=trace)
        fronts[user_id] = Front(sharers=header.sharers, points=pareto(rows))
    found = Pareto(users=fronts, provenance=origin)
    if not path.exists() or typed_files.read_bytes(path) != typed_files.json_bytes(found):
        typed_files.write_json(path, found)
