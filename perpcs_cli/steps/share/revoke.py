"""Take sharers out of a pool, and out of everything that was made with them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts.embeddings import without_users
from perpcs_cli.artifacts.io.leftovers import sweep
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.io.safe_paths import inside
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pools.pseudonyms import own_names, pseudonym
from perpcs_cli.artifacts.pools.revocation import (
    Lost,
    Revocation,
    affected_recipes,
    affected_traces,
    begin,
    finish,
    pending,
    plan,
    remaking_path,
    to_remake,
)
from perpcs_cli.artifacts.pools.secret import existing_secret, workspace_secret
from perpcs_cli.artifacts.pools.text_leaks import files_below, find_names
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import paths
from perpcs_cli.steps.share.remake import command_line, remake
from perpcs_cli.steps.workspace import Places

Choice = Literal["refuse", "renormalize", "delete", "reassemble"]


class Revoked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done, or would be."""

    pool: str
    revoked: list[str]
    left: int | None = None
    """Sharers that stay; None where only what was stopped was finished."""
    recipes_then: Choice | None = None
    recipes: list[str] = []
    """That use the sharers."""
    traces: list[str] = []
    deleted: list[str] = []
    """Directories."""
    commands: list[str] = []
    """By which recipes are made again."""
    by_hand: list[str] = []
    """That a person may run to search PriME's recipes again."""
    still_mentioned: list[str] = []
    """What else in the workspace names the sharers."""


def revoke(
    places: Places,
    sharers: Sequence[str] = (),
    *,
    pool: Path | None = None,
    recipes: Sequence[Path] | None = None,
    recipes_then: Choice = "refuse",
    traces: Path | None = None,
    keep_files: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Revoked:
    """Take sharers, by their ids or pseudonyms, out of a pool and its recipes; none to finish what was stopped.

    `recipes`: places of recipes; `recipes_then`: what becomes of those that use the sharers; `keep_files`: keep the
    sharers' own directories. Raises UsageError where there are recipes in the way, or nothing to do.
    """
    path = pool or places.pool
    lock = nullcontext() if dry_run else locked(path, report.note)
    with lock:
        if not dry_run:
            # What a killed run was writing may hold anybody's pieces and texts.
            for directory in (places.root, path.parent):
                sweep(directory, below=True)
        result = _revoke(
            places, path, sharers, recipes, recipes_then, traces, keep_files=keep_files, dry_run=dry_run, report=report
        )
    if not dry_run:
        # Whoever writes a recipe asks for the pool's lock.
        _remake(places, path, report)
    return result


def _revoke(
    places: Places,
    path: Path,
    sharers: Sequence[str],
    recipes: Sequence[Path] | None,
    recipes_then: Choice,
    traces: Path | None,
    *,
    keep_files: bool,
    dry_run: bool,
    report: Report,
) -> Revoked:
    secret = existing_secret(places.root)
    stopped = bool(to_remake(path, secret))
    if dry_run and not sharers and (stopped or pending(path, secret)):
        return Revoked(pool=str(path), revoked=[])
    finished = [] if dry_run else _finish_stopped(path, secret, report)
    wanted = [name for name in dict.fromkeys(sharers) if name not in finished]
    if stopped and wanted:
        # The command that is run again: who is out already is not missed, while recipes are still to be made.
        opened = open_pool(path)
        wanted = [name for name in wanted if own_names(opened, secret, name) & opened.places.keys()]
    if not wanted:
        if not finished and not stopped:
            raise UsageError("names nobody, and nothing was stopped", where=path, hint="Give the sharers' ids.")
        return Revoked(pool=str(path), revoked=finished)
    opened = open_pool(path)
    names = _names(opened, wanted, places)
    todo = plan(
        opened,
        names,
        "renormalize" if recipes_then == "renormalize" else "delete",
        recipes=places.recipe_places if recipes is None else recipes,
        traces=traces or places.traces,
        embeddings=places.embeddings(),
        directories=_directories(opened, names, places, keep_files=keep_files),
    )
    affected = affected_recipes(todo)
    left = len(opened.ids) - len(names)
    again: list[Lost] = []
    if recipes_then == "reassemble" and left:
        again = [msgspec.structs.replace(one, provenance=_unnamed(one.provenance)) for one in affected]
        todo = msgspec.structs.replace(todo, lost=tuple(one for one in again if one.method != "prime"))
    lines = {
        prime: [
            shlex.join(["perpcs", *command_line(one, places.root.resolve(), path.resolve(), left)])
            for one in again
            if (one.method == "prime") is prime
        ]
        for prime in (False, True)
    }
    result = Revoked(
        pool=str(path),
        revoked=list(names),
        left=left,
        recipes_then=recipes_then,
        recipes=[one.named for one in affected],
        traces=[str(file) for file in affected_traces(todo)],
        deleted=list(todo.directories),
        commands=lines[False],
        by_hand=lines[True],
    )
    if affected and recipes_then == "refuse" and not dry_run:
        shown = "\n  ".join(result.recipes)
        raise UsageError(
            f"{len(affected)} recipes use the sharers:\n  {shown}",
            where="--recipes-then",
            hint="Choose renormalize, delete or reassemble; --dry-run shows everything that would happen.",
        )
    if dry_run:
        return result
    secret = workspace_secret(places.root)
    begin(path, todo, secret)
    _finish(path, todo, secret, report)
    for line in result.by_hand:
        report.warn(f"PriME's recipe is deleted; search it again with: {line}")
    if keep_files:
        report.warn("the sharers' own directories are kept, and the next `perpcs pool build` would take them in")
    mentioned = still_mentioned(places.root, todo.names)
    if mentioned:
        report.note(f"outside the pool and its recipes, {', '.join(mentioned)} still name them")
    return msgspec.structs.replace(result, still_mentioned=mentioned)


def _unnamed(origin: Provenance) -> Provenance:
    """A recipe's provenance without the sharers: they are chosen anew, and the file must not mention who is gone."""
    settings = {key: value for key, value in origin.settings.items() if key not in ("sharers", "mix")}
    return msgspec.structs.replace(origin, settings=settings)


def still_mentioned(workspace: Path, names: tuple[str, ...]) -> list[str]:
    """The files and directories at the top of a workspace that name one of `names`, or in which a file does."""
    found = find_names(files_below(workspace), names)
    return list(dict.fromkeys(Path(file).relative_to(workspace).parts[0] for file, _ in found))


def _finish_stopped(path: Path, secret: bytes | None, report: Report) -> list[str]:
    """Finish a revocation that was stopped; the names of those who are gone."""
    todo = pending(path, secret)
    if not todo or not secret:
        return []
    report.note(f"finishing the revocation of {', '.join(todo.sharers)}, which was stopped")
    _finish(path, todo, secret, report)
    return list(todo.names)


def _finish(path: Path, todo: Revocation, secret: bytes, report: Report) -> None:
    """Do what is to be done while nobody embeds: what is being embedded would bring them back."""
    with locked(Path(todo.embeddings), report.note):
        for shard in paths(Path(todo.embeddings)):
            without_users(shard, todo.names)
        finish(path, todo, secret)


def _remake(places: Places, path: Path, report: Report) -> None:
    """Make deleted recipes again, and forget about it when all are there."""
    if lost := to_remake(path, existing_secret(places.root)):
        sharers = len(open_pool(path).ids)
        # Of nobody there is nothing to make.
        for one in lost if sharers else ():
            report.note(f"$ {shlex.join(['perpcs', *command_line(one, places.root, path, sharers)])}")
            remake(one, places.root, path, sharers, report)
        remaking_path(path).unlink(missing_ok=True)


def _names(pool: OpenPool, wanted: list[str], places: Places) -> dict[str, set[str]]:
    """{a sharer's name in the pool: all names of it that are known}. Raises UsageError for who is not in the pool."""
    secret = existing_secret(places.root) if pool.manifest.pseudonyms else None
    hidden = (lambda name: pseudonym(secret, name)) if secret else (lambda name: name)
    own = places.sharers
    known = {hidden(path.name): path.name for path in own.glob("*")} if secret and own.is_dir() else {}
    found: dict[str, set[str]] = {}
    for name in wanted:
        listed = next((n for n in (name, hidden(name)) if n in pool.places), None)
        if listed is None:
            raise UsageError(f"no such sharer: {name!r}", where=pool.path, hint="`perpcs pool list` shows them.")
        found.setdefault(listed, set()).update({listed, name, known.get(listed, name)})
    return found


def _directories(pool: OpenPool, names: dict[str, set[str]], places: Places, *, keep_files: bool) -> list[Path]:
    """What is deleted: copies always, the sharers' own directories unless they are to be kept."""
    entries = {sharer.user_id: sharer.path for sharer in pool.manifest.sharers}
    in_pool = [inside(pool.path.parent, entries[name], where=pool.path) for name in names]
    if not pool.manifest.pseudonyms:
        return [] if keep_files else in_pool
    own = [places.sharers / name for some in names.values() for name in sorted(some)]
    return in_pool + ([] if keep_files else [path for path in own if path.is_dir()])
