"""`perpcs audit`: what a pool and its recipes give away, as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Cell, Column, Estimate, Table, TableFormat, render
from perpcs_cli.errors import DataError, counted

if TYPE_CHECKING:
    from perpcs_cli.artifacts.pools.audit import Audit


@command
def audit(
    console: Console,
    here: flags.PlaceFlags,
    pool: flags.PoolOption = None,
    recipes: flags.RecipesOption = None,
    mia: flags.SummariesOption = None,
    users_file: flags.UsersFileOption = None,
    form: flags.FormatOption = None,
) -> None:
    """Report what a pool and its recipes give away.

    Lists who shares which pieces, under which guarantee of differential privacy, and what `perpcs mia` found out.
    Checks all digests, and looks in the bytes of every file for the words of the users of users.jsonl, where it is
    there, for pickles, unexpected files, metadata and long texts, and in a pool of pseudonyms for ids and digests
    of users' data. The recipes are those in recipes* of the workspace by default, the summaries those in mia. The
    exit status is 3 if anything is wrong.
    """
    from perpcs_cli.steps.evaluate.audit import audit as step

    shown = flags.form_of(form, console)
    report = step(here.places, pool=pool, recipes=recipes, summaries=mia, users_file=users_file)
    console.result(report, _text(report, shown))
    if report.problems:
        count = counted(len(report.problems), "problem")
        raise DataError(f"{count}:\n  " + "\n  ".join(report.problems), where=report.pool)


def _text(report: Audit, form: TableFormat) -> str:
    tables = [_sharers(report), *([_attacks(report)] if report.attacks else [])]
    if form in ("csv", "latex"):
        return "\n".join(render(table, form) for table in tables)
    mark = "- " if form == "markdown" else ""
    facts = "".join(f"{mark}{fact}\n" for fact in _facts(report))
    return "\n".join([facts, *(render(table, form) for table in tables)])


def _facts(report: Audit) -> list[str]:
    ids = "pseudonyms" if report.pseudonyms else "ids as in the data"
    if report.pseudonyms and not report.names:
        ids += " (what they stand for was not looked for: the secret is not here)"
    share = f"{report.share_ratio:.0%} of {report.modules} pieces, rank {report.rank}"
    bound = [sharer.privacy for sharer in report.sharers if sharer.privacy]
    carried = "carried by the pool" if report.embeddings else "not part of the pool"
    words = "not looked for: there is no users.jsonl" if report.users is None else f"of {report.users} users"
    privacy = f"{len(bound)} of {len(report.sharers)} sharers have a guarantee"
    if bound:
        privacy += f", epsilon {max(one.epsilon for one in bound):g} at most; one item is what it protects"
    mine = [one for one in report.attacks if one.same_pool]
    strongest = max(mine, key=lambda one: abs(one.auc - 0.5), default=None)
    leakage = f"AUC {strongest.auc:.3f} ({strongest.attack}, {strongest.system})" if strongest else "not measured"
    lines = [
        f"pool: {report.pool}, {report.digest[:12]}…",
        f"sharers: {len(report.sharers)}, {ids}; {share}",
        f"embeddings: {carried}",
        f"differential privacy: {privacy}",
        f"strongest attack: {leakage}",
        f"recipes: {report.recipes} of this pool, {report.other_recipes} of others",
        f"looked through: {report.files} files; users' words: {words}",
        f"digests of users' data: in {len(report.data_digests)} files; training logs: {len(report.logs)}",
    ]
    problems = [f"problem: {problem}" for problem in report.problems]
    return [*lines, *(problems or ["nothing is wrong"])]


def _sharers(report: Audit) -> Table:
    columns = (
        Column("sharer"),
        Column("pieces"),
        Column("gates"),
        Column("bytes"),
        Column("epsilon"),
        Column("delta", digits=7),
        Column("attack's AUC", key="auc"),
    )
    rows = [
        (
            one.user_id,
            one.pieces,
            "yes" if one.gates else "no",
            one.bytes,
            one.privacy.epsilon if one.privacy else "none",
            one.privacy.delta if one.privacy else None,
            one.auc,
        )
        for one in report.sharers
    ]
    return Table(columns, (rows,))


def _attacks(report: Audit) -> Table:
    columns = (Column("system"), Column("protocol"), Column("attack"), Column("AUC", key="auc"), Column("pool"))
    now = {True: "this", False: "another", None: "not said"}

    def area(auc: float, low: float | None, high: float | None) -> Cell:
        return auc if low is None or high is None else Estimate(auc, low, high)

    rows = [(a.system, a.protocol, a.attack, area(a.auc, a.low, a.high), now[a.same_pool]) for a in report.attacks]
    return Table(columns, (rows,))
