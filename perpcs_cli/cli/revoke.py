"""`perpcs pool revoke u17`: take sharers out of a pool, and out of everything that was made with them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.leaks import files_below, find_names
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pseudonyms import pseudonym
from perpcs_cli.artifacts.revocation import (
    Remaking,
    affected_recipes,
    affected_traces,
    begin,
    finish,
    pending,
    plan,
    remaking_path,
)
from perpcs_cli.artifacts.secret import existing_secret
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.inprocess import run_line
from perpcs_cli.cli.options import DryRunOption, JsonOption, PoolOption, QuietOption, WorkspaceOption
from perpcs_cli.cli.remaking import command_line
from perpcs_cli.errors import UsageError

Choice = Literal["refuse", "renormalize", "delete", "reassemble"]


def revoke(
    sharers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SHARERS]...", help="Ids or pseudonyms; none to finish what was stopped.", show_default=False
        ),
    ] = None,
    pool: PoolOption = None,
    recipes: Annotated[
        list[Path] | None,
        typer.Option("--recipes", help="Directory of recipes; may be repeated. [default: recipes* of the workspace]"),
    ] = None,
    recipes_then: Annotated[
        Choice, typer.Option("--recipes-then", help="What becomes of recipes that use the sharers.")
    ] = "refuse",
    traces: Annotated[
        Path | None, typer.Option("--traces", help="Directory of the traces. [default: traces of the workspace]")
    ] = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Keep the sharers' own directories in sharers/.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take sharers out of a pool and its recipes.

    Removes their entries, gates, embeddings and copies, and their directories in sharers/, from which another pool
    would be built with them. Recipes that use them are renormalized (the other sharers' weights are scaled up),
    deleted, or reassembled: Per-PCs and retrieval with the settings they have, PriME by the commands that are shown.
    By default nothing happens where there are any. All other recipes are bound to the new pool; PriME's traces of the
    sharers are deleted. A run that was stopped is finished by the next; until then the pool is refused.
    """
    console = Console(json=json, quiet=quiet)
    path = pool or workspace / "pool.json"
    stopped = remaking_path(path).exists()
    if dry_run and not sharers and (stopped or pending(path)):
        console.result({"pool": str(path), "revoked": []}, f"{path}\twhat was stopped would be finished")
        return
    finished = [] if dry_run else _finish_stopped(path, console)
    wanted = [name for name in dict.fromkeys(sharers or []) if name not in finished]
    if not wanted:
        if not finished and not stopped:
            raise UsageError("names nobody, and nothing was stopped", where=path, hint="Give the sharers' ids.")
        _remake(path, console)
        console.result({"pool": str(path), "revoked": finished}, f"{path}\tfinished what was stopped")
        return
    opened = open_pool(path)
    names = _names(opened, wanted, workspace)
    todo = plan(
        opened,
        names,
        "renormalize" if recipes_then == "renormalize" else "delete",
        recipes=recipes if recipes is not None else [p for p in sorted(workspace.glob("recipes*")) if p.is_dir()],
        traces=traces or workspace / "traces",
        embeddings=workspace / "embeddings.safetensors",
        directories=_directories(opened, names, workspace, keep_files=keep_files),
    )
    affected = affected_recipes(todo)
    by_hand: list[str] = []
    if recipes_then == "reassemble":
        places = ["--workspace", str(workspace.resolve()), "--pool", str(path.resolve())]
        lines = [command_line(recipe, file, places, len(opened.ids) - len(names)) for file, recipe in affected]
        todo = msgspec.structs.replace(todo, commands=tuple(line for line in lines if line and line[0] != "prime"))
        by_hand = [shlex.join(["perpcs", *line]) for line in lines if line and line[0] == "prime"]
    report: dict[str, Any] = {
        "pool": str(path),
        "revoked": list(names),
        "left": len(opened.ids) - len(names),
        "recipes_then": recipes_then,
        "recipes": [str(file) for file, _ in affected],
        "traces": [str(file) for file in affected_traces(todo)],
        "deleted": list(todo.directories),
        "commands": [shlex.join(["perpcs", *line]) for line in todo.commands],
        "by_hand": by_hand,
    }
    if affected and recipes_then == "refuse" and not dry_run:
        shown = "\n  ".join(str(file) for file, _ in affected)
        raise UsageError(
            f"{len(affected)} recipes use the sharers:\n  {shown}",
            where="--recipes-then",
            hint="Choose renormalize, delete or reassemble; --dry-run shows everything that would happen.",
        )
    if not dry_run:
        begin(path, todo)
        finish(path, todo)
        _remake(path, console)
        for line in by_hand:
            console.warn(f"PriME's recipe is deleted; search it again with: {line}")
        if keep_files:
            console.warn("the sharers' own directories are kept, and the next `perpcs pool build` would take them in")
        report["still_mentioned"] = mentioned = still_mentioned(workspace, todo.names)
        if mentioned:
            console.note(f"outside the pool and its recipes, {', '.join(mentioned)} still name them")
    console.result(report, _lines(report, dry_run=dry_run))


def still_mentioned(workspace: Path, names: tuple[str, ...]) -> list[str]:
    """The files and directories at the top of a workspace that name one of `names`, or in which a file does."""
    found = find_names(files_below(workspace), names)
    return list(dict.fromkeys(Path(file).relative_to(workspace).parts[0] for file, _ in found))


def _finish_stopped(path: Path, console: Console) -> list[str]:
    """Finish a revocation that was stopped; the names of those who are gone."""
    todo = pending(path)
    if not todo:
        return []
    console.note(f"finishing the revocation of {', '.join(todo.sharers)}, which was stopped")
    finish(path, todo)
    return list(todo.names)


def _remake(path: Path, console: Console) -> None:
    """Make deleted recipes again, and forget about it when all are there."""
    if remaking_path(path).exists():
        for line in store.read_json(remaking_path(path), Remaking).commands:
            run_line(line, console)
        remaking_path(path).unlink()


def _names(pool: OpenPool, wanted: list[str], workspace: Path) -> dict[str, set[str]]:
    """{a sharer's name in the pool: all names of it that are known}. Raises UsageError for who is not in the pool."""
    secret = existing_secret(workspace) if pool.manifest.pseudonyms else None
    hidden = (lambda name: pseudonym(secret, name)) if secret else (lambda name: name)
    own = workspace / "sharers"
    known = {hidden(path.name): path.name for path in own.glob("*")} if secret and own.is_dir() else {}
    found: dict[str, set[str]] = {}
    for name in wanted:
        listed = next((n for n in (name, hidden(name)) if n in pool.ids), None)
        if listed is None:
            raise UsageError(f"no such sharer: {name!r}", where=pool.path, hint="`perpcs pool list` shows them.")
        found.setdefault(listed, set()).update({listed, name, known.get(listed, name)})
    return found


def _directories(pool: OpenPool, names: dict[str, set[str]], workspace: Path, *, keep_files: bool) -> list[Path]:
    """What is deleted: copies always, the sharers' own directories unless they are to be kept."""
    entries = {sharer.user_id: sharer.path for sharer in pool.manifest.sharers}
    in_pool = [store.inside(pool.path.parent, entries[name], where=pool.path) for name in names]
    if not pool.manifest.pseudonyms:
        return [] if keep_files else in_pool
    own = [workspace / "sharers" / name for some in names.values() for name in sorted(some)]
    return in_pool + ([] if keep_files else [path for path in own if path.is_dir()])


def _lines(report: dict[str, Any], *, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    lines = [f"{report['pool']}\twithout {', '.join(report['revoked'])}\t{report['left']} sharers are left"]
    done = {"renormalize": "renormalized", "delete": "deleted", "reassemble": "reassembled", "refuse": "in the way"}
    lines += [f"{file}\t{would}{done[report['recipes_then']]}" for file in report["recipes"]]
    lines += [f"{file}\t{would}deleted" for file in [*report["traces"], *report["deleted"]]]
    return "\n".join([*lines, *(f"$ {line}" for line in [*report["commands"], *report["by_hand"]] if dry_run)])
