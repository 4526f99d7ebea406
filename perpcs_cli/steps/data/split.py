"""Draw base, target and candidate users."""

from __future__ import annotations

from pathlib import Path

from perpcs_cli.artifacts import selection
from perpcs_cli.artifacts.io import atomic, hashing, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.split import FILE, PARTS, Parts, Split, draw_parts, list_of, read_split, write_split
from perpcs_cli.artifacts.users import UserFile, write_users
from perpcs_cli.steps.job import Outcome, Output, made_from, run_one
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places


def split(
    places: Places,
    *,
    base_share: float = 0.25,
    targets: int = 100,
    min_history: int = 1,
    files: bool = False,
    users_file: Path | None = None,
    seed: int | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[Split]:
    """Write OUT/base.txt, target.txt and candidate.txt, one id a line, and split.json, drawn by the seed.

    A selection of sharers from an earlier split is taken away: they may be targets now. `files`: also write the users.
    """
    directory = out or places.splits
    seed = places.seed(seed)
    source = users_file or places.users
    users = UserFile(source)
    parts = draw_parts(users, base=base_share, targets=targets, min_history=min_history, seed=seed)
    provenance = Provenance(
        command="split",
        settings={"base": base_share, "targets": targets, "min_history": min_history},
        seed=seed,
        inputs={source.name: hashing.digest_file(source)},
    )
    path = directory / FILE
    user_files = {name: directory / f"{name}.jsonl" for name in PARTS}
    selected = [directory / selection.IDS, directory / selection.FILE]

    def write_parts() -> None:
        for name, file in user_files.items():
            if files:
                write_users(file, users.chosen(getattr(parts, name)))
            else:
                file.unlink(missing_ok=True)

    drawn_before = made_from(provenance, path, read_split)

    def finished() -> Split | None:
        found = drawn_before()
        return found if not files or all(file.exists() for file in user_files.values()) else None

    def make() -> Split:
        if not force and (same := drawn_before()):
            write_parts()
            return same
        if not path.exists():
            # Lists that a person made; after a split that was stopped they are its own.
            for name in PARTS:
                atomic.refuse_existing(directory / f"{name}.txt", force=force or _is_list(directory, name, parts))
        for old in selected:
            old.unlink(missing_ok=True)
        write_parts()
        drawn = Split(parts=parts, provenance=provenance)
        write_split(directory, drawn)
        return drawn

    outcome = run_one(
        Output("split", path, finished),
        make,
        force=force,
        dry_run=dry_run,
        report=report,
    )
    if len(parts.target) < targets:
        report.note(
            f"{len(parts.target)} targets instead of {targets}: "
            "only users with queries can be targets, and at least as many stay candidates"
        )
    if parts.left_out:
        report.note(f"{len(parts.left_out)} users left out, with fewer than {min_history} history items")
    return outcome


def _is_list(directory: Path, name: str, parts: Parts) -> bool:
    path = directory / f"{name}.txt"
    return path.is_file() and typed_files.read_text(path) == list_of(parts, name)
