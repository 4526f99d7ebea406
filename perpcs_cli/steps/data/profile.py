"""Textual user profiles, written by a language model (PAG)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.io.journal import Header, open_journal, partial_path, read_journal
from perpcs_cli.artifacts.io.provenance import Provenance, check_beside, check_same
from perpcs_cli.artifacts.predictions import info_path
from perpcs_cli.artifacts.profiles import Profile, ProfilesInfo, read_info, read_profiles, write_info, write_profiles
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.answers import answer
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, run
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import end_journals, journal_of, rows_of_shards
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.profile_prompts import profile_lines, profile_prompt
from perpcs_cli.tasks.prompts import Prompt

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded

FORMAT = str(ProfilesInfo.__struct_config__.tag)
Asker = Callable[[Sequence[str]], Prompt]


def profile(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Profile]]:
    """Write users' profiles into profiles.jsonl: what the model says of their items, by the section `profile` of the
    settings.

    By default it is asked as in a chat where the model has a chat template. Who has a profile of the same prompt keeps
    it; a run that was stopped goes on from `profiles.partial.jsonl`; a shard keeps its profiles in such a file of its
    own, and the step without one takes them over. With a task adapter in the settings the adapted
    model is asked.
    """
    settings, how = workspace.settings, workspace.settings.profile
    path = out or workspace.profiles
    shown = {
        user.user_id: profile_lines(workspace.task, user, how, seed=settings.seed) for user in who.select(workspace)
    }
    if empty := [user for user, lines in shown.items() if not lines]:
        report.warn(f"{len(empty)} users have no history to describe, {empty[0]!r} for example")
    shown = {user: lines for user, lines in shown.items() if lines}
    if not shown:
        raise DataError("no user has a history to describe", where=who.path(workspace))
    model = StepModel(workspace, report, pieces=False)
    turn = None if how.chat is False else model.chat
    if how.chat and not turn:
        raise UsageError(f"{settings.model} has no chat template", where="--chat", hint="Ask with --no-chat.")
    ask = {user: partial(profile_prompt, workspace.task, user, turn=turn or ("", "")) for user in shown}
    sources = {user: hashing.digest_value(ask[user](lines).text) for user, lines in shown.items()}
    shared: dict[str, object] = {"profile": msgspec.structs.replace(how, chat=bool(turn))}
    shared |= {"max_length": settings.max_length, **model.describe()}
    provenance = workspace.provenance("profile", shared, {}, model.fingerprint)

    @cache
    def known() -> dict[str, Profile]:
        """Looked at when the file is locked."""
        return _known(path, provenance, shown.keys(), force=force)

    @cache
    def kept() -> dict[str, Profile]:
        """What this shard has made before."""
        if not who.shard or not journal_of(path, who.shard).exists():
            return {}
        begun, rows = read_journal(journal_of(path, who.shard), Header, Profile)
        check_same(begun.provenance, provenance, where=journal_of(path, who.shard))
        return {row.user_id: row for row in rows}

    def finished(user: str) -> Profile | None:
        some = (known().get(user), kept().get(user))
        return next((found for found in some if found and found.source == sources[user]), None)

    def tidy() -> None:
        """The journal holds what other users still wait for, unless the file has all of it."""
        if partial_path(path).exists():
            _, rows = read_journal(partial_path(path), Header, Profile)
            if all(known().get(row.user_id) == row for row in rows):
                end_journals(path)

    if who.shard:
        outputs = [Output(user, journal_of(path, who.shard), partial(finished, user)) for user in who.mine(list(shown))]
    else:
        outputs = [Output(user, path, partial(finished, user), tidy) for user in shown]

    def make(todo: Sequence[Output[Profile]], keep: Any) -> None:
        from perpcs_cli.model.engine.piece_cache import PieceCache
        from perpcs_cli.model.engine.recipe_router import RecipeRouter
        from perpcs_cli.model.engine.sampling import sampling_of

        wanted = {one.name: one for one in todo}
        header = Header(of=FORMAT, provenance=provenance)
        atomic.check_writable(path)
        journal = open_journal(journal_of(path, who.shard), header, Profile, force=force)
        if not who.shard:
            if not journal.rows:
                # All of the old ones, so that the journal alone says what the file will be.
                journal.add([row for user, row in known().items() if user not in wanted])
            there = {row.user_id for row in journal.rows}
            made = {row.user_id: row for row in rows_of_shards(path, header, Profile, force=force)}
            journal.add([row for user, row in made.items() if user in wanted.keys() - there])
        have = {row.user_id: row for row in journal.rows if row.source == sources.get(row.user_id, row.source)}
        asked = list(wanted)
        done = {place for place, user in enumerate(asked) if user in have}
        if done:
            report.note(f"{len(done)} of {len(wanted)} users have a profile already")
        if len(done) < len(asked):
            try:
                rows = _encode(model, {user: (ask[user], shown[user]) for user in asked}, how.max_new_tokens, report)
            except DataError:
                if not journal.rows:
                    # Nothing was made that another run would have to respect.
                    journal.path.unlink(missing_ok=True)
                raise
            with report.progress("writing profiles", len(rows)) as bar:
                answer(
                    model,
                    RecipeRouter(PieceCache(model.base, [].__getitem__), [{}]),
                    [(row, 0) for row in rows],
                    journal.add,
                    lambda place, text: Profile(user_id=asked[place], profile=text, source=sources[asked[place]]),
                    bar,
                    max_new_tokens=how.max_new_tokens,
                    sampling=sampling_of(how, settings.seed),
                    known=done,
                )
        profiles = {**have, **{row.user_id: row for row in journal.rows if row.user_id in wanted}}
        if not who.shard:
            write_profiles(path, profiles)
            info = ProfilesInfo(task=workspace.task.name, sha256=hashing.digest_file(path), provenance=provenance)
            write_info(path, info)
            end_journals(path)
        for user, one in wanted.items():
            keep(one, profiles[user])
        if silent := [user for user in wanted if not profiles[user].profile]:
            report.warn(f"the model says nothing of {len(silent)} users, {silent[0]!r} for example")

    outcomes = run(outputs, make, place=path, shard=who.shard, dry_run=dry_run, report=report, force=force)
    if dry_run:
        left = {one.name: (ask[one.name], shown[one.name]) for one in outcomes if one.state == "to do"}
        _encode(model, left, how.max_new_tokens, report)
    return outcomes


def _known(path: Path, provenance: Provenance, asked: Collection[str], *, force: bool) -> dict[str, Profile]:
    """The profiles that are there. Raises where they were made with other settings, or by hand, unless `force`, and
    where `force` would lose those of users who are not asked for."""
    if not path.exists():
        return {}
    stopped = partial_path(path).exists()
    if not info_path(path).exists():
        if stopped or force:
            return {}
        raise UsageError("already exists", where=path, hint="Use --force to replace it, or --out for another file.")
    known = read_profiles(path)
    info = read_info(path)
    if info.sha256 != hashing.digest_file(path):
        if stopped or force:
            return {}
        raise DataError("has changed since it was written", where=path, hint="Use --force to write it again.")
    if force:
        check_beside(info.provenance, provenance, known.keys() - asked, where=path)
        if info.provenance != provenance:
            return {}
    check_same(info.provenance, provenance, where=path)
    return known


def _encode(
    model: StepModel, asked: Mapping[str, tuple[Asker, list[str]]], reserve: int, report: Report
) -> list[Encoded]:
    """Tokenize the users' prompts, and say how many had to leave items out. Errors name the user."""
    from perpcs_cli.model.engine.chat_prompts import encode_items

    rows = []
    short = []
    for user, (ask, lines) in asked.items():
        try:
            row, left_out = encode_items(model.reader, ask, lines, model.settings.max_length, reserve=reserve)
        except DataError as error:
            raise DataError(error.what, where=f"user {user}", hint=error.hint) from None
        rows.append(replace(row, who=f"user {user}"))
        if left_out or row.cut:
            short.append(left_out)
    if short:
        report.warn(
            f"{len(short)} of {len(rows)} histories are longer than the context; their oldest items were left out, "
            f"{max(short)} at most, and the last one cut where it alone is too long"
        )
    return rows
