"""Every kind of file that perpcs reads, and everything that reads it."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from helpers import provenance
from valid_files import HEADER, IDS, MODULES, SELECTION, SHAPES, TASK, revocation_of, trace_header

from perpcs_cli.artifacts import (
    adapter,
    gate,
    line_index,
    packed_recipes,
    piece_digests,
    pool,
    predictions,
    profiles,
    recipe,
    results,
    settings,
    trace,
    users,
)
from perpcs_cli.artifacts.embeddings import read_embeddings
from perpcs_cli.artifacts.exported import read_exported
from perpcs_cli.artifacts.foreign_adapter import open_foreign_adapter
from perpcs_cli.artifacts.io import hashing, journal, safe_paths, typed_files
from perpcs_cli.artifacts.io.provenance import differences
from perpcs_cli.artifacts.merged_model import read_merged
from perpcs_cli.artifacts.metrics import Source, read_metrics
from perpcs_cli.artifacts.mia import (
    read_leakage,
    read_roc,
    read_scores,
)
from perpcs_cli.artifacts.pools import revocation
from perpcs_cli.artifacts.pools.audit import audit_pool
from perpcs_cli.artifacts.pools.norms import far_from_others
from perpcs_cli.artifacts.pools.secret import workspace_secret
from perpcs_cli.artifacts.pools.text_leaks import find_names, find_words, odd_content
from perpcs_cli.artifacts.pools.verify import verify_pool
from perpcs_cli.artifacts.published import read_published
from perpcs_cli.artifacts.selection import is_written
from perpcs_cli.artifacts.split import read_split
from perpcs_cli.artifacts.sweep import read_sweep
from perpcs_cli.experiments.costs.model_shape import find_shape
from perpcs_cli.experiments.sweeps.grid import cells
from perpcs_cli.experiments.sweeps.runner import Done
from perpcs_cli.methods.statistics.comparison import read_answers, read_info
from perpcs_cli.model.loading.identity import fingerprint_model
from perpcs_cli.steps.data import fetch_lamp
from perpcs_cli.steps.personalize.pareto_front import check_front
from perpcs_cli.steps.workspace import Places, open_workspace
from perpcs_cli.tasks import metrics
from perpcs_cli.tasks.examples import query_prompts
from perpcs_cli.tasks.importing.import_users import load
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.sample_prompts import sample_prompts
from perpcs_cli.tasks.spec import Task, get_task


@dataclass(frozen=True)
class Kind:
    """A file below the directory of all kinds, the form of its content, and what reads it."""

    name: str
    file: str
    form: str
    read: Callable[[Path], object]

    def __str__(self) -> str:
        return self.name


def _settings(root: Path) -> None:
    open_workspace(root)
    settings.set_task_adapter(root / settings.FILE, "task-adapter")
    open_workspace(root, task_adapter="none")


def _users(root: Path) -> None:
    for user in users.read_users(root / "users.jsonl").values():
        if len(user.history) > 1:
            trained, away = users.held_out(users.newest(user, 3), 0.5, 0)
            assert len(trained.history) + len(away.history) == min(3, len(user.history))
    imported(root / "users.jsonl")


def imported(*paths: Path, task: Task = TASK) -> None:
    """Import, and write what was read as `import` does."""
    found = load(list(paths), task)
    b"".join(typed_files.jsonl_lines(found.users))
    "\n".join([*map(str, found.problems), *found.notes]).encode()
    for user in found.users:
        safe_paths.check_id(user.user_id, "user")
        query_prompts(task, user)


def _fetched(root: Path) -> None:
    fetch_lamp.there("https://example.org/fetched.json", root / "fetched.json", root / "fetched.json.card.json")


def _profiles(root: Path) -> None:
    profiles.read_profiles(root / "profiles.jsonl")
    profiles.with_profiles(users.read_users(root / "users.jsonl"), root / "profiles.jsonl")
    profiles.read_info(root / "profiles.jsonl")


def _ids(root: Path) -> None:
    chosen = users.read_ids(root / "splits/target.txt")
    users.choose_users(users.read_users(root / "users.jsonl"), chosen, where="here")
    users.read_chosen(root / "users.jsonl", chosen)
    Places(root).split("target")


def _split(root: Path) -> None:
    read_split(root / "splits/split.json")


def _selection(root: Path) -> None:
    is_written(root / "splits", SELECTION)


def _embeddings(name: str, what: str) -> Callable[[Path], None]:
    def read(root: Path) -> None:
        found = read_embeddings(root / name, what)
        for user in found.card.users:
            assert found.vector(user).ndim == 1

    return read


def _adapter(root: Path) -> None:
    opened = adapter.open_adapter(root / "sharers/u0")
    for module in opened.modules:
        assert len(opened.piece(module)) == 2
        recipe.split_layer(module)
    opened.check_fits("b" * 64, SHAPES)
    adapter.divided(opened, users.read_users(root / "users.jsonl")["u0"])
    opened.digest()
    _contents(root, root / "sharers/u0" / adapter.WEIGHTS)


def _foreign(root: Path) -> None:
    opened = open_foreign_adapter(root / "foreign")
    pieces, scale = opened.as_pieces(SHAPES)
    assert set(pieces) == set(MODULES)
    assert scale


def _gates(root: Path) -> None:
    vectors, _ = gate.read_fitting_gates(root / "sharers/u0" / gate.FILE, SHAPES)
    assert len(vectors) == len(MODULES)
    _contents(root, root / "sharers/u0" / gate.FILE)


def _pool(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    pool.check_layers(opened, SHAPES)
    verify_pool(opened)
    far_from_others(opened)
    for index in range(len(opened.ids)):
        assert opened.shares(index) <= set(opened.modules)
    opened.gates()
    opened.embeddings()


def _pieces(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    path = pool.pieces_path(opened.path)
    for index, sharer in enumerate(opened.manifest.sharers):
        piece_digests.read_line(path, index, opened.modules, sharer.pieces)
    rest = shutil.copy(path, root / "rest.txt")
    piece_digests.keep_lines(rest, [1], len(opened.modules))
    rest.unlink()


def _pools_gates(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    # Whatever they hold: as if the manifest had been made for it.
    gates = replace(opened.gates(), digests={})
    for module in opened.modules:
        gates.read(module)


def _audit(root: Path) -> None:
    everyone = list(users.read_users(root / "users.jsonl").values())
    audit_pool(
        pool.open_pool(root / "pool.json"),
        recipes=sorted((root / "recipes").iterdir()),
        summaries=[root / "mia/m.json"],
        users=everyone,
        ids=[*IDS, "somebody"],
        known=["Sun"],
    )


def _contents(root: Path, path: Path) -> None:
    odd_content(path)
    find_names([path], IDS)
    find_words([path], users.read_users(root / "users.jsonl").values())


def _revoking(root: Path) -> None:
    todo = revocation.pending(root / "half.json", workspace_secret(root))
    assert todo
    revocation.affected_recipes(todo)


def _remaking(root: Path) -> None:
    assert revocation.to_remake(root / "again.json", workspace_secret(root))


def _recipe(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    path = root / "recipes/u2.json"
    found = recipe.read_recipe(path, pool=opened.digest)
    recipe.unpack(found, MODULES, where=path)
    recipe.uses(found, ["u0"])
    recipe.unpack(recipe.without_sharers(found, ["u0"]), MODULES, where=path)
    differences(found.provenance, provenance())
    _contents(root, path)


def _packed(root: Path) -> None:
    place = root / "recipes-packed.jsonl"
    found = packed_recipes.find_recipes(place, ["u2"])
    for one in [*found.values(), *packed_recipes.made_so_far(place, ["u1", "u2"]).values()]:
        recipe.unpack(one, MODULES, where=place)
    revocation.affected_recipes(revocation_of(root, pool.open_pool(root / "pool.json"), "u0", place))
    packed_recipes.pack_recipes(place)
    packed_recipes.change_recipes(place, lambda one: recipe.without_sharers(one, ["u0"]))
    _contents(root, place)


def _line_index(root: Path) -> None:
    found = line_index.read_index(root / "lines", "state")
    for user in IDS if found else ():
        list(found.spans(user))


def _trace(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    revocation.affected_traces(revocation_of(root, opened, "u0"))
    header, rows = trace.read_trace(root / "traces/u2.jsonl")
    assert len(trace.Trace(root / "traces/u2.jsonl", header, rows).known) <= len(rows)
    trace.open_trace(root / "traces/u2.jsonl", trace_header(opened))


def _journal(root: Path) -> None:
    path = root / "p.partial.jsonl"
    rows = journal.open_journal(path, HEADER, predictions.Prediction).rows
    key = operator.attrgetter("user_id", "id")
    opened = journal.open_long_journal(path, HEADER, predictions.Prediction, key)
    # Of rows of the same query the last counts.
    assert list(opened.rows(opened.places)) == list({key(row): row for row in rows}.values())


def _scores(root: Path) -> None:
    summary = read_leakage(root / "mia/m.json")
    scores = Source(file="m.jsonl", sha256=hashing.digest_file(root / "mia/m.jsonl"))
    typed_files.write_json(root / "mia/other.json", msgspec.structs.replace(summary, scores=scores))
    shutil.copy(root / "mia/m.jsonl", root / "mia/other.jsonl")
    read_scores(root / "mia/other.json")


def _roc(root: Path) -> None:
    path = root / "mia/m.roc.csv"
    curves = Source(file=path.name, sha256=hashing.digest_file(path))
    read_roc(path, msgspec.structs.replace(read_leakage(root / "mia/m.json"), roc=curves))


def _results(root: Path) -> None:
    results.open_results(root / results.FILE)
    results.verify_results(root / results.FILE)


def _own_task(root: Path) -> None:
    task = get_task(str(root / "mood.task.toml"))
    sample_prompts(task)
    metrics.utility(task, ["glad"], ["sad"])
    settings.make_settings(published_settings(str(task.file)), {"model": "m"})
    task.copy_to(root / "splits")
    task.identity["task_sha256"].encode()


def _own_data(name: str) -> Callable[[Path], None]:
    return lambda root: imported(root / name, task=get_task(str(root / "mood.task.toml")))


def _sweep(root: Path) -> None:
    cells(read_sweep(root / "grid.toml"))


def _model(root: Path) -> None:
    fingerprint_model(root / "model")
    find_shape(str(root / "model"))


def _answers(name: str) -> Callable[[Path], object]:
    return lambda root: (read_info(root / name), read_answers(root / name))


def _predictions(root: Path) -> None:
    _answers("predictions/p.jsonl")(root)
    predictions.read_predictions(root / "predictions/p.jsonl")


def _sharers_card(root: Path) -> None:
    _adapter(root)
    _pool(root)


POOLS = "pool.embeddings.safetensors"
KINDS = [
    Kind("settings", settings.FILE, "toml", _settings),
    Kind("users", "users.jsonl", "jsonl", _users),
    Kind("ids", "splits/target.txt", "plain", _ids),
    Kind("lamp-questions", "lamp/dev_questions.json", "json", lambda root: imported(root / "lamp")),
    Kind("lamp-outputs", "lamp/dev_outputs.json", "json", lambda root: imported(root / "lamp")),
    Kind("lamp-predictions", "lamp/dev_outputs.json", "json", _answers("lamp/dev_outputs.json")),
    Kind("per-pcs-users", "per-pcs/users.json", "json", lambda root: imported(root / "per-pcs")),
    Kind("per-pcs-labels", "per-pcs/users_label.json", "json", lambda root: imported(root / "per-pcs")),
    Kind("predictions", "predictions/p.jsonl", "jsonl", _predictions),
    Kind("predictions-info", "predictions/p.meta.json", "json", _answers("predictions/p.jsonl")),
    Kind("profiles", "profiles.jsonl", "jsonl", _profiles),
    Kind("fetched", "fetched.json.card.json", "json", _fetched),
    Kind("profiles-info", "profiles.meta.json", "json", _profiles),
    Kind("split", "splits/split.json", "json", _split),
    Kind("selection", "splits/selection.json", "json", _selection),
    Kind("embeddings", "embeddings.safetensors", "tensors", _embeddings("embeddings.safetensors", "history")),
    Kind("profile-embeddings", "profile.safetensors", "tensors", _embeddings("profile.safetensors", "profile")),
    Kind("adapter", "sharers/u0/adapter_model.safetensors", "tensors", _adapter),
    Kind("adapter-config", "sharers/u0/adapter_config.json", "json", _adapter),
    Kind("foreign-adapter", "foreign/adapter_model.safetensors", "tensors", _foreign),
    Kind("foreign-config", "foreign/adapter_config.json", "json", _foreign),
    Kind("export", "export/export.json", "json", lambda root: read_exported(root / "export")),
    Kind("sharer-card", "sharers/u0/sharer.json", "json", _sharers_card),
    Kind("gates", "sharers/u0/gate.safetensors", "tensors", _gates),
    Kind("pool", "pool.json", "json", _pool),
    Kind("pool-pieces", "pool.pieces.txt", "plain", _pieces),
    Kind("pool-gates", "pool.gates.safetensors", "tensors", _pools_gates),
    Kind(
        "pool-embeddings",
        "pool.embeddings.safetensors",
        "tensors",
        _embeddings("pool.embeddings.safetensors", "history"),
    ),
    Kind("audit-pool", "pool.json", "json", _audit),
    Kind("audit-adapter", "sharers/u0/adapter_model.safetensors", "tensors", _audit),
    Kind("audit-recipe", "recipes/u2.json", "json", _audit),
    Kind("audit-summary", "mia/m.json", "json", _audit),
    Kind("revoking", "half.revoking.json", "json", _revoking),
    Kind(
        "remaking", "again.remaking.json", "json", lambda r: revocation.to_remake(r / "again.json", workspace_secret(r))
    ),
    Kind("recipe", "recipes/u2.json", "json", _recipe),
    Kind("packed-recipes", "recipes-packed.jsonl", "jsonl", _packed),
    Kind("begun-recipes", "recipes-packed.partial.jsonl", "jsonl", _packed),
    Kind("line-index", "lines", "plain", _line_index),
    Kind("trace", "traces/u2.jsonl", "jsonl", _trace),
    Kind("front", "front.json", "json", lambda root: check_front(root / "front.json", ["u2"], provenance())),
    Kind("journal", "p.partial.jsonl", "jsonl", _journal),
    Kind("metrics", "metrics.json", "json", lambda root: read_metrics(root / "metrics.json")),
    Kind("leakage", "mia/m.json", "json", lambda root: read_scores(root / "mia/m.json")),
    Kind("scores", "mia/m.jsonl", "jsonl", _scores),
    Kind("roc", "mia/m.roc.csv", "plain", _roc),
    Kind("results", "results.jsonl", "jsonl", _results),
    Kind("step", "step.json", "json", lambda root: typed_files.read_json(root / "step.json", Done)),
    Kind("published", "published.toml", "toml", lambda root: read_published(root / "published.toml")),
    Kind("task", "mood.task.toml", "toml", _own_task),
    Kind("own-users", "mood.jsonl", "jsonl", _own_data("mood.jsonl")),
    Kind("own-rows", "mood.csv", "plain", _own_data("mood.csv")),
    Kind("sweep", "grid.toml", "toml", _sweep),
    Kind("secret", "secret.key", "plain", workspace_secret),
    Kind("model-config", "model/config.json", "json", _model),
    Kind("merged", "model/merged.json", "json", lambda root: read_merged(root / "model")),
    Kind("model-weights", "model/model.safetensors", "tensors", _model),
]
"""The one list of what is read."""
