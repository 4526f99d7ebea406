"""Search the weights of similar sharers' LoRAs for each target user (PriME)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.pool import check_base, check_layers
from perpcs_cli.artifacts.users import newest
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, run
from perpcs_cli.steps.personalize.in_flight import groups, run_group
from perpcs_cli.steps.personalize.pareto_front import check_front, write_front
from perpcs_cli.steps.personalize.prime_search import UserSearch, described
from perpcs_cli.steps.personalize.recipes import RecipePlace, check_shard, places_of
from perpcs_cli.steps.personalize.search_result import Found
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.similar_sharers import open_similar
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import search_prompts
from perpcs_cli.tasks.prompts import PLAIN, Shown


def prime(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    shown: Shown = PLAIN,
    pool: Path | None = None,
    embeddings: Path | None = None,
    pareto: Path | None = None,
    traces: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Found]]:
    """Search for each target user, by the section `prime` of the settings.

    Candidates are scored on each history item once, after what `shown` shows, or with `prime.prompts = "both"` as in
    training: plain, and again after what `shown` shows, by default the profile and the best earlier item. Users whose
    candidates alone are too few to keep the device busy are searched in step. Writes OUT/USER.json, or
    OUT-ALPHA/USER.json for each of several α (or lines of OUT.jsonl, or OUT-ALPHA.jsonl), and TRACES/USER.jsonl, from
    which a search that was stopped goes on. `pareto`: a file for the candidates that none beats in both scores.
    """
    from perpcs_cli.methods.prime.objective import check_metric
    from perpcs_cli.methods.prime.optimizers import make_optimizer
    from perpcs_cli.methods.prime.search import sample_items
    from perpcs_cli.methods.prime.weight_space import make_space

    settings = workspace.settings
    if pareto is not None and who.shard:
        hint = "Give it to the command without --shard, when all shards have ended."
        raise UsageError("is one file for all users", where="--pareto", hint=hint)
    users = who.mine(who.select(workspace, "target"))
    near = open_similar(workspace, pool, embeddings)
    check_metric(workspace.task, settings.prime.metric)
    # A missing package is found here, before the model is loaded.
    make_optimizer(settings.prime, settings.prime.similar, 1)
    model = StepModel(workspace, report)
    searches = []
    for user in users:
        kept = newest(user, settings.prime.recent)
        prompts, context = search_prompts(workspace.task, kept, settings.prime.prompts, shown, seed=settings.seed)
        in_order = settings.prime.race is None
        items = sample_items(prompts, settings.prime.data_fraction, settings.seed, user.user_id, in_order=in_order)
        sharers = [one.user_id for one in near.nearest(user, settings.prime.similar)]
        space = make_space(near.pool, sharers, settings.prime.granularity)
        trace = (traces or workspace.traces) / f"{user.user_id}.jsonl"
        searches.append(UserSearch(workspace, near.pool, model, context, user, items, space, trace, report))
    check_base(near.pool, model.fingerprint, settings.model)
    front = workspace.provenance(
        "prime", {"prime": described(settings.prime), **model.describe()}, {"pool": near.pool.digest}, model.fingerprint
    )
    if pareto is not None and pareto.exists() and not force:
        check_front(pareto, [user.user_id for user in users], front)
    directory = out or workspace.recipes_of("prime")
    if len(set(settings.prime.alpha)) > 1 and not directory.name:
        raise UsageError("names no directory to put the alphas beside", where="--out", hint="Give --out DIR.")
    check_shard(directory, who.shard)
    ids = {user.user_id for user in users}
    places = {
        alpha: RecipePlace(place, near.pool, ids, report)
        for alpha, place in places_of(directory, settings.prime.alpha).items()
    }
    outputs = [output for one in searches for output in one.outputs(places)]

    def make(todo: Any, keep: Any) -> None:
        check_layers(near.pool, model.base.shapes)
        left = {(one.name, one.path): one for one in todo}
        names = {name for name, _ in left}
        total = sum(one.candidates for one in searches if one.user.user_id in names)
        with report.progress("searching", total) as bar:
            for group in groups(searches, model.base, near.pool):
                some = [one for one in group if one.user.user_id in names]
                for found in run_group(some, places, bar, force=force):
                    output = left.get((found.user_id, places[found.alpha].path_of(found.user_id)))
                    if output is not None:
                        keep(output, found)
                        if found.base:
                            report.note(
                                f"{found.user_id}, alpha {found.alpha:g}: no candidate beats the base; "
                                "the recipe is the base"
                            )
        for place in places.values():
            place.end()

    how: dict[str, Any] = {"shard": who.shard, "force": force, "dry_run": dry_run, "report": report}
    rows = run(outputs, make, place=directory, things="recipes", **how)
    if dry_run:
        asked = {one.user.user_id: one.asked for one in searches}
        # Answers are as long for everyone.
        model.check_room(asked, rows, reserve=next((one.predict.max_new_tokens for one in searches), 0))
    # Without its traces, a front that is there stays as it is.
    if pareto is not None and not dry_run and (not pareto.exists() or all(one.has_trace() for one in searches)):
        write_front(pareto, {one.user.user_id: (one.trace, one.header()) for one in searches}, front)
    return rows
