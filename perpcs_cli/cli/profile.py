"""`perpcs profile`: textual user profiles, written by a language model (PAG)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.predictions import info_path
from perpcs_cli.artifacts.profiles import Profile, ProfilesInfo, read_info, read_profiles, write_info, write_profiles
from perpcs_cli.artifacts.provenance import check_same
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.lineup import base_lineup
from perpcs_cli.cli.options import BaseFlags, ForceOption, JsonOption, UserFlags, takes
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.profiles import ITEMS, NEW_TOKENS, profile_lines, profile_prompt
from perpcs_cli.tasks.prompts import Prompt

if TYPE_CHECKING:
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.batching import Encoded

    Asker = Callable[[Sequence[str]], Prompt]


@takes(BaseFlags, UserFlags)
def profile(
    base: BaseFlags,
    who: UserFlags,
    recent: Annotated[
        int, typer.Option("--recent", min=1, help="Newest items of each history that are shown.")
    ] = ITEMS,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest profile in tokens.")
    ] = NEW_TOKENS,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Ask as in a chat. [default: where the model has a chat template]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file. [default: profiles.jsonl of the workspace]")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Write users' textual profiles with a language model.

    The model reads the newest items of a history after the task's published question, and answers greedily; --model
    may name a better writer than the workspace's. A task adapter is merged only where --task-adapter names one: it
    would answer the task. All users get a profile by default. Users who have one are skipped unless their history has
    changed, so a run that was stopped goes on where it was. All other commands find the profiles in profiles.jsonl.
    """
    console = Console(json=json, quiet=base.quiet)
    context = replace(base, task_adapter=base.task_adapter or "none").open()
    settings = context.settings
    path = out or context.profiles
    if info_path(path).exists():
        # Drops a line that was cut off when a run was killed.
        store.Journal(path)
    shown = {user.user_id: profile_lines(context.task, user, recent) for user in who.select(context)}
    if empty := [user for user, lines in shown.items() if not lines]:
        console.warn(f"{len(empty)} users have no history to describe, {empty[0]!r} for example")
    shown = {user: lines for user, lines in shown.items() if lines}
    if not shown:
        raise DataError("no user has a history to describe", where=who.users_file or context.users)

    from perpcs_cli.cli.running import open_base
    from perpcs_cli.model.chat import chat_ends
    from perpcs_cli.model.decode import generate
    from perpcs_cli.model.pieces import Bank, Recipes

    model, lineup = open_base(context, console, pieces=False), base_lineup([])
    ends = None if chat is False else chat_ends(model.tokenizer)
    if chat and not ends:
        raise UsageError(f"{settings.model} has no chat template", where="--chat", hint="Ask with --no-chat.")
    ask = {user: partial(profile_prompt, context.task, user, ends=ends or ("", "")) for user in shown}
    sources = {user: store.digest_value(ask[user](lines).text) for user, lines in shown.items()}
    shared: dict[str, object] = {"recent": recent, "max_new_tokens": max_new_tokens, "chat": bool(ends)}
    shared |= {"max_length": settings.max_length, **model.describe()}
    info = ProfilesInfo(task=context.task.name, provenance=context.provenance("profile", shared, {}, model.fingerprint))
    known = _known(path, info, force=force)
    stale = {user for user in shown if user in known and known[user].source != sources[user]}
    todo = [user for user in shown if user not in known or user in stale]
    if len(todo) < len(shown):
        console.note(f"{len(shown) - len(todo)} of {len(shown)} users have a profile already")
    if todo:
        store.check_writable(path)
        asked = {user: (ask[user], shown[user]) for user in todo}
        rows = _encode(model, asked, settings.max_length, max_new_tokens, console)
        # The sidecar comes second: rows of other settings must never stand beside it.
        write_profiles(path, {user: row for user, row in known.items() if user not in stale})
        write_info(path, info)
        journal = store.Journal(path)
        with console.progress("writing profiles", len(todo)) as bar:

            def write(indices: list[int], tokens: list[list[int]]) -> None:
                texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
                users = [todo[index] for index in indices]
                journal.append(
                    Profile(user_id=user, profile=text.strip(), source=sources[user])
                    for user, text in zip(users, texts, strict=True)
                )
                bar.advance(len(indices))

            generate(
                model,
                Recipes(Bank(model, lineup.adapters.__getitem__), lineup.recipes),
                [(row, 0) for row in rows],
                max_new_tokens=max_new_tokens,
                batch_tokens=settings.predict.batch_tokens,
                batch_rows=settings.predict.batch_rows,
                done=write,
            )
        known = read_profiles(path)
    if list(known) != sorted(known):
        write_profiles(path, known)
    if silent := [user for user in shown if not known[user].profile]:
        console.warn(f"the model says nothing of {len(silent)} users, {silent[0]!r} for example")
    console.result(
        {"path": str(path), "profiles": len(known), "written": len(todo)},
        f"{path}\t{len(known)} profiles\t{len(todo)} written",
    )


def _known(path: Path, info: ProfilesInfo, *, force: bool) -> dict[str, Profile]:
    """The profiles that are there and stay. Raises where they were made with other settings, or by hand."""
    # An empty file is of a run that was stopped before its sidecar was there.
    if force or not path.exists() or not path.stat().st_size:
        return {}
    if not info_path(path).exists():
        raise UsageError("already exists", where=path, hint="Use --force to replace it, or --out for another file.")
    known = read_profiles(path)
    if known:
        check_same(read_info(path).provenance, info.provenance, where=path)
    return known


def _encode(
    model: Base, asked: Mapping[str, tuple[Asker, list[str]]], max_length: int, reserve: int, console: Console
) -> list[Encoded]:
    """Tokenize the users' prompts, and say how many had to leave items out. Errors name the user."""
    from perpcs_cli.model.chat import encode_items

    rows = []
    short = []
    for user, (ask, lines) in asked.items():
        try:
            row, left_out = encode_items(model, ask, lines, max_length, reserve=reserve)
        except DataError as error:
            raise DataError(error.what, where=f"user {user}", hint=error.hint) from None
        rows.append(row)
        if left_out or row.cut:
            short.append(left_out)
    if short:
        console.warn(
            f"{len(short)} of {len(rows)} histories are longer than the context; their oldest items were left out, "
            f"{max(short)} at most, and the last one cut where it alone is too long"
        )
    return rows
