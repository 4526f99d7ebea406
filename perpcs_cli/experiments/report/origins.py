"""Where everything on a page comes from: commands, seeds, digests and settings; and in what systems differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.sweep import flat
from perpcs_cli.experiments.report.blocks import Cell, Section, Table
from perpcs_cli.experiments.tables.paper_layouts import in_words
from perpcs_cli.experiments.tables.systems import varying
from perpcs_cli.steps.inspect.step_state import Step

HOW = ("batch_tokens", "batch_rows", "device", "batch")
"""Settings that say how something is computed, and not what."""


def told_apart(systems: Mapping[str, Provenance]) -> dict[str, str]:
    """What each system's provenance has that not all have: `predict.retrieve 4, …`."""
    settings = {
        name: {key: value for key, value in flat(one.settings).items() if key.rpartition(".")[2] not in HOW}
        for name, one in systems.items()
    }
    for name, one in systems.items():
        settings[name]["seed"] = one.seed
    keys = varying(list(settings.values()))
    return {
        name: ", ".join(f"{key} {told(own[key])}" for key in keys if own.get(key) is not None)
        for name, own in settings.items()
    }


def told(value: object) -> str:
    """A setting's value in words; of a digest its first characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value[:12] if isinstance(value, str) and len(value) == 64 else in_words(value)


def section(made: Mapping[str, Provenance], stale: Sequence[Step], more: Sequence[Table] = ()) -> Section:
    """The provenance of files {path below the place: provenance}, and what in a workspace is not as it should be."""
    rows = [
        [
            Cell(path),
            Cell(one.command),
            Cell(one.tool.replace(" ", "\N{NO-BREAK SPACE}")),
            Cell(str(one.seed), number=True),
            Cell(one.base[:12]),
            Cell(", ".join(f"{Path(name).name} {digest[:12]}" for name, digest in one.inputs.items())),
        ]
        for path, one in made.items()
    ]
    columns = ["file", "command", "tool", "seed", "base", "made from"]
    blocks = (
        [Table(columns, rows, "Digests are the first twelve characters of SHA-256.", folded="Files")] if rows else []
    )
    settings = [
        [Cell(path), Cell(", ".join(f"{key} {told(value)}" for key, value in _settings(one).items()))]
        for path, one in made.items()
    ]
    if settings:
        blocks.append(Table(["file", "settings"], settings, folded="Settings"))
    if stale:
        states = [[Cell(one.name), Cell(one.state), Cell(one.why or one.what), Cell(one.command)] for one in stale]
        blocks.insert(
            0, Table(["step", "state", "why", "mend it with"], states, "What `perpcs status` finds fault with.")
        )
    lead = "What each file says it was made from."
    return Section("provenance", "Provenance", lead, [*blocks, *more])


def _settings(one: Provenance) -> dict[str, Any]:
    return {
        key: value if not isinstance(value, list | tuple) else msgspec.json.encode(value).decode()
        for key, value in flat(one.settings).items()
    }


def digests(root: Path, files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of files by their path below `root`, or by their name, for the page's own provenance."""

    return {below(root, path): hashing.digest_file(path) for path in sorted(set(files)) if path.is_file()}


def below(root: Path, path: Path) -> str:
    """A file's path below `root`, or its name where it lies elsewhere."""
    name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    # It may be no text.
    return str(name).encode(errors="replace").decode()
