"""Every kind of file that perpcs reads: a valid one, and everything that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from helpers import provenance

from perpcs_cli.artifacts import adapter, gate, pool, predictions, profiles, recipe, results, settings, trace, users
from perpcs_cli.artifacts.embeddings import read_embeddings, write_embeddings
from perpcs_cli.artifacts.io import hashing, journal, safe_paths, tensors, typed_files
from perpcs_cli.artifacts.io.provenance import differences
from perpcs_cli.artifacts.labels import Gold, Labels
from perpcs_cli.artifacts.metrics import Metrics, Source, SystemMetrics, read_metrics
from perpcs_cli.artifacts.mia import (
    AttackLeakage,
    Leakage,
    ProtocolLeakage,
    ScoredExample,
    SystemLeakage,
    read_leakage,
    read_scores,
)
from perpcs_cli.artifacts.pools import revocation
from perpcs_cli.artifacts.pools.audit import audit_pool
from perpcs_cli.artifacts.pools.build import build_pool
from perpcs_cli.artifacts.pools.norms import far_from_others
from perpcs_cli.artifacts.pools.secret import workspace_secret
from perpcs_cli.artifacts.pools.text_leaks import find_names, find_words, odd_content
from perpcs_cli.artifacts.pools.verify import verify_pool
from perpcs_cli.artifacts.privacy import Guarantee, Mechanism
from perpcs_cli.artifacts.published import read_published
from perpcs_cli.artifacts.selection import Chosen, Selection, is_written, write_selection
from perpcs_cli.artifacts.split import Parts, Split, read_split, write_split
from perpcs_cli.artifacts.sweep import read_sweep
from perpcs_cli.experiments.costs.model_shape import find_shape
from perpcs_cli.experiments.sweeps.grid import cells
from perpcs_cli.experiments.sweeps.runner import Done
from perpcs_cli.methods.statistics.comparison import read_answers
from perpcs_cli.model.loading.identity import fingerprint_model
from perpcs_cli.steps.personalize.pareto_front import check_front
from perpcs_cli.steps.workspace import Places, open_workspace
from perpcs_cli.tasks.import_users import load
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.spec import get_task

TASK = get_task("news_headline")
MODULES = [f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")]
SHAPES = dict.fromkeys(MODULES, (6, 4))
IDS = ("u0", "u1", "u2")
ASK = "Generate a headline for the following article: "
SHARERS = IDS[:2]
GUARANTEE = Guarantee(
    epsilon=8.0,
    delta=1e-5,
    mechanisms=(Mechanism(what="lora", noise_multiplier=1.0, clip=0.3, sample_rate=0.5, steps=3),),
)
SPLIT = Split(parts=Parts(base=[], target=["u2"], candidate=list(SHARERS)), provenance=provenance())
SELECTION = Selection(
    strategy="random",
    candidates=2,
    chosen=[Chosen(user_id=user, items=2, reason="drawn") for user in SHARERS],
    provenance=provenance(),
)
HEADER = journal.Header(of="perpcs.predictions/2", provenance=provenance())
PUBLISHED = """format = "perpcs.published/2"

[[table]]
layout = "per-pcs-1"
source = "A paper"
table = "Table 1"
rows = [{ system = "Per-PCs", task = "movie_tagging", values = { accuracy = 0.5 }, errors = { accuracy = 0.01 } }]
[[table.more]]
"""
SWEEP = """format = "perpcs.sweep/1"
task = "movie_tagging"
model = "m"
data = ["a", "b"]
seeds = [0, 1]
preset = "prime"
[settings]
train = { batch_size = 4, lr = 1e-3 }
[steps]
split = { targets = 8, min-history = 6 }
profile = {}
[plan]
targets = 3
[[experiment]]
name = "main"
method = ["base", "per-pcs"]
predict = { retrieve = [0, 1], with-profile = true }
settings = { gate.lr = [1e-5, 1e-4], "assemble.recent" = 8 }
"""


def write_all(root: Path) -> None:
    """Write a valid file of every kind below `root`."""
    stored = settings.make_settings(published_settings(TASK.name, "per-pcs"), {"model": "m"})
    typed_files.write_text(root / settings.FILE, settings.to_toml(stored))
    (root / "published.toml").write_text(PUBLISHED.replace("[[table.more]]\n", ""))
    (root / "grid.toml").write_text(SWEEP)
    secret = workspace_secret(root)
    _write_data(root)
    _write_sharers(root)
    _write_results(root)
    _write_model(root / "model")
    opened = pool.open_pool(root / "pool.json")
    for name, sharer in (("half.json", "u0"), ("again.json", "u1")):
        shutil.copy(root / "pool.json", root / name)
        todo = _revocation(root, opened, sharer)
        revocation.begin(root / name, todo, secret)
    lost = revocation.Lost(path="recipes/u2.json", user_id="u2", method="per-pcs", provenance=provenance())
    note = revocation.sealed(revocation.Remaking(lost=(lost,)), secret)
    typed_files.write_json(revocation.remaking_path(root / "again.json"), note)


def _write_data(root: Path) -> None:
    items = [
        {"id": "1", "text": "It rained all day in the town.", "title": "Rain", "date": "2019-03-07T10:00:00+01:00"},
        {"id": "2", "text": "The council met on Monday.", "title": "Council", "date": "2020-01"},
    ]
    everyone = [
        users.User(
            user_id=user,
            history=list(items),
            queries=[users.Query(id=f"q{user}", input=f"{ASK}Sun over {user}.", output="Sun")],
            profile="likes rain",
        )
        for user in IDS
    ]
    users.write_users(root / "users.jsonl", everyone)
    profiles.write_profiles(root / "profiles.jsonl", {u: profiles.Profile(user_id=u, profile="dry") for u in IDS})
    digest = hashing.digest_file(root / "profiles.jsonl")
    info = profiles.ProfilesInfo(task=TASK.name, sha256=digest, provenance=provenance())
    profiles.write_info(root / "profiles.jsonl", info)
    write_split(root / "splits", SPLIT)
    write_selection(root / "splits", SELECTION)
    questions = [{"id": n, "input": f"{ASK}Sun {n}.", "profile": items, "user_id": "u"} for n in (1, 2)]
    plain = [{**question, "user_id": f"u{question['id']}"} for question in questions]
    lamp, per_pcs = root / "lamp", root / "per-pcs"
    typed_files.write_json(lamp / "dev_questions.json", [*questions, *plain][:3])
    typed_files.write_json(lamp / "dev_outputs.json", Labels(task="LaMP_4", golds=[Gold(id="1", output="Sun")]))
    asked = [{"id": "q", "input": f"{ASK}Sun.", "gold": "Sun"}]
    typed_files.write_json(per_pcs / "users.json", [{"user_id": 1, "profile": items, "query": asked}])
    typed_files.write_json(per_pcs / "users_label.json", {"task": "LaMP_4", "golds": [{"id": "q", "output": "Sun"}]})
    vectors = {user: torch.arange(4) + place + 1.0 for place, user in enumerate(IDS)}
    write_embeddings(root / "embeddings.safetensors", vectors, dict.fromkeys(IDS, "d"), "minilm", provenance())
    write_embeddings(root / "profile.safetensors", vectors, dict.fromkeys(IDS, "d"), "minilm", provenance(), "profile")


def _write_sharers(root: Path) -> None:
    for number, user in enumerate(SHARERS):
        directory = root / "sharers" / user
        directory.mkdir(parents=True)
        pieces = {module: (torch.ones(2, 4) * (number + 1), torch.ones(6, 2)) for module in MODULES}
        config = adapter.AdapterConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
        digest = adapter.write_adapter(directory, pieces, config, "0.19.0")
        origin = msgspec.structs.replace(provenance("b" * 64), settings={"hold_out": 0.5, "recent": 2})
        trained = {"user_id": user, "steps": 3, "first_loss": 2.0, "last_loss": 1.0, "provenance": origin}
        card = adapter.Card(**trained, examples=2, tokens=9, digest=digest, scale=2.0, privacy=GUARANTEE)
        typed_files.write_json(directory / adapter.CARD, card)
        gates = {module: torch.ones(4) * number for module in MODULES}
        gate.write_gates(directory / gate.FILE, gates, gate.GateCard(**trained, adapter=digest, privacy=GUARANTEE))
    build_pool(
        root / "pool.json",
        [root / "sharers" / user for user in SHARERS],
        MODULES,
        share_ratio=0.5,
        need_gates=True,
        provenance=provenance(),
        embeddings=read_embeddings(root / "embeddings.safetensors"),
        max_norm=100.0,
    )


def _write_results(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    names, weights = recipe.pack({module: [("u0", 0.75), ("u1", -0.25)] for module in MODULES})
    made = {"user_id": "u2", "method": "prime", "merge": "product", "pool": opened.digest, "provenance": provenance()}
    recipe.write_recipe(root / "recipes/u2.json", recipe.Recipe(**made, sharers=names, weights=weights))
    rows = [predictions.Prediction(user_id=user, id=f"q{user}", output="Sun") for user in IDS]
    path = root / "predictions/p.jsonl"
    predictions.write_predictions(path, rows)
    digest = hashing.digest_file(path)
    info = predictions.PredictionsInfo(
        task=TASK.name, model_label="base", count=3, sha256=digest, provenance=provenance()
    )
    predictions.write_info(path, info)
    journal.open_journal(root / "p.partial.jsonl", HEADER, predictions.Prediction).add(rows)
    one = trace.Evaluation(
        weights=(0.5, 0.0),
        utility=1.5,
        similarity=(1.0, 0.5),
        metrics={"rouge-1": 1.0, "rouge-L": 0.5},
        seconds=0.1,
        call=0,
        of=2,
        outputs=hashing.digest_value([[3, 4], [5]]),
        tokens=((3, 4), (5,)),
    )
    evaluated = [one, msgspec.structs.replace(one, weights=(0.0, 0.5), tokens=None)]
    typed_files.write_jsonl(root / "traces/u2.jsonl", [_trace_header(opened), *evaluated])
    point = trace.Point(utility=1.5, similarity=0.75, weights=(0.5, 0.0))
    front = trace.Pareto(users={"u2": trace.Front(sharers=SHARERS, points=[point])}, provenance=provenance())
    typed_files.write_json(root / "front.json", front)
    source = Source(file="p.jsonl", sha256=digest)
    values = {"rouge-1": 0.5, "rouge-L": 0.25}
    metrics = Metrics(
        task=TASK.name,
        metrics=list(values),
        count=3,
        user_count=3,
        left_out=0,
        references=source,
        baseline="p",
        systems={"p": SystemMetrics(predictions=source, values=values)},
        resampling=None,
        provenance=provenance(),
    )
    typed_files.write_json(root / "metrics.json", metrics)
    example = ScoredExample(
        system="recipes",
        target="u2",
        user_id="u0",
        item=0,
        tokens=3,
        logprob=-1.0,
        reference=-2.0,
        scores={"loss": 1.0},
    )
    typed_files.write_jsonl(root / "mia/m.jsonl", [example])
    attack = AttackLeakage(auc=0.75, balanced_accuracy=0.7, targets={"u2": 0.75, "u0": 0.5})
    found = ProtocolLeakage(targets=1, members=1, non_members=1, users=2, strongest="loss", attacks={"loss": attack})
    leakage = Leakage(
        task=TASK.name,
        systems={"sharers": SystemLeakage(kind="sharers", protocols={"published": found})},
        duplicates=0,
        scores=Source(file="m.jsonl", sha256=hashing.digest_file(root / "mia/m.jsonl")),
        roc=source,
        resampling=None,
        provenance=msgspec.structs.replace(provenance(), inputs={"pool": opened.digest}),
    )
    typed_files.write_json(root / "mia/m.json", leakage)
    result = results.Result(
        experiment="main",
        method="base",
        task=TASK.name,
        model="m",
        seed=0,
        settings={"assemble.top-k": 2},
        metrics=values,
        count=3,
        user_count=3,
        predictions="predictions/p.jsonl",
        users="users.jsonl",
        digest="d" * 64,
        seconds={"predict": 1.5},
    )
    cell = msgspec.structs.replace(result, digest="e" * 64)
    typed_files.write_jsonl(root / results.FILE, [result, cell])
    step = Done(name="adapt", digest="d" * 64, command=("adapt", "--plain"), seconds=1.5, tool="0")
    typed_files.write_json(root / "step.json", step)


def _write_model(directory: Path) -> None:
    directory.mkdir()
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "intermediate_size": 12,
        "vocab_size": 40,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "rope_theta": 1e4,
        "attention_bias": False,
        "eos_token_id": 1,
    }
    (directory / "config.json").write_text(json.dumps(config))
    tensors.write_tensors(directory / "model.safetensors", {"model.norm.weight": torch.ones(8)}, {"format": "pt"})


def _trace_header(opened: pool.OpenPool) -> trace.TraceHeader:
    origin = msgspec.structs.replace(provenance(), settings={"metric": "sum"}, inputs={"pool": opened.digest})
    return trace.TraceHeader(user_id="u2", sharers=SHARERS, weights=2, items=2, provenance=origin)


def _revocation(root: Path, opened: pool.OpenPool, sharer: str) -> revocation.Revocation:
    return revocation.plan(
        opened,
        {sharer: {sharer}},
        "renormalize",
        recipes=[root / "recipes"],
        traces=root / "traces",
        embeddings=root / "embeddings.safetensors",
        directories=[],
    )


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
        trained, away = users.held_out(users.newest(user, 3), 0.5, 0) if len(user.history) > 1 else (user, user)
        assert len(trained.history) + len(away.history) >= len(user.history)
    imported(root / "users.jsonl")


def imported(*paths: Path) -> None:
    """Import, and write what was read as `import` does."""
    found = load(list(paths), TASK)
    b"".join(typed_files.jsonl_lines(found.users))
    "\n".join([*map(str, found.problems), *found.notes]).encode()
    for user in found.users:
        safe_paths.check_id(user.user_id, "user")


def _profiles(root: Path) -> None:
    profiles.with_profiles(users.read_users(root / "users.jsonl"), root / "profiles.jsonl")
    profiles.read_info(root / "profiles.jsonl")


def _ids(root: Path) -> None:
    chosen = users.read_ids(root / "splits/target.txt")
    users.choose_users(users.read_users(root / "users.jsonl"), chosen, where="here")
    Places(root).split("target")


def _split(root: Path) -> None:
    read_split(root / "splits/split.json")


def _selection(root: Path) -> None:
    is_written(root / "splits", SELECTION)


def _embeddings(name: str, what: str) -> Callable[[Path], None]:
    def read(root: Path) -> None:
        found = read_embeddings(root / name, what)
        for user in found.card.users:
            assert found.vector(user).dim() == 1

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


def _pools_gates(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    held = msgspec.structs.replace(opened.manifest, gates=hashing.digest_file(pool.gates_path(opened.path)))
    file = replace(opened, manifest=held).gates()
    for module in opened.modules:
        file.read(module)


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


def _trace(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    revocation.affected_traces(_revocation(root, opened, "u0"))
    header, rows = trace.read_trace(root / "traces/u2.jsonl")
    assert len(trace.Trace(root / "traces/u2.jsonl", header, rows).known) <= len(rows)
    trace.open_trace(root / "traces/u2.jsonl", _trace_header(opened))


def _journal(root: Path) -> None:
    journal.open_journal(root / "p.partial.jsonl", HEADER, predictions.Prediction)


def _scores(root: Path) -> None:
    summary = read_leakage(root / "mia/m.json")
    scores = Source(file="m.jsonl", sha256=hashing.digest_file(root / "mia/m.jsonl"))
    typed_files.write_json(root / "mia/other.json", msgspec.structs.replace(summary, scores=scores))
    shutil.copy(root / "mia/m.jsonl", root / "mia/other.jsonl")
    read_scores(root / "mia/other.json")


def _results(root: Path) -> None:
    results.open_results(root / results.FILE)
    results.verify_results(root / results.FILE)


def _sweep(root: Path) -> None:
    cells(read_sweep(root / "grid.toml"))


def _model(root: Path) -> None:
    fingerprint_model(root / "model")
    find_shape(str(root / "model"))


def _answers(name: str) -> Callable[[Path], object]:
    return lambda root: read_answers(root / name)


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
    Kind("predictions", "predictions/p.jsonl", "jsonl", _answers("predictions/p.jsonl")),
    Kind("predictions-info", "predictions/p.meta.json", "json", _answers("predictions/p.jsonl")),
    Kind("profiles", "profiles.jsonl", "jsonl", _profiles),
    Kind("profiles-info", "profiles.meta.json", "json", _profiles),
    Kind("split", "splits/split.json", "json", _split),
    Kind("selection", "splits/selection.json", "json", _selection),
    Kind("embeddings", "embeddings.safetensors", "tensors", _embeddings("embeddings.safetensors", "history")),
    Kind("profile-embeddings", "profile.safetensors", "tensors", _embeddings("profile.safetensors", "profile")),
    Kind("adapter", "sharers/u0/adapter_model.safetensors", "tensors", _adapter),
    Kind("adapter-config", "sharers/u0/adapter_config.json", "json", _adapter),
    Kind("sharer-card", "sharers/u0/sharer.json", "json", _sharers_card),
    Kind("gates", "sharers/u0/gate.safetensors", "tensors", _gates),
    Kind("pool", "pool.json", "json", _pool),
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
    Kind("trace", "traces/u2.jsonl", "jsonl", _trace),
    Kind("front", "front.json", "json", lambda root: check_front(root / "front.json", ["u2"], provenance())),
    Kind("journal", "p.partial.jsonl", "jsonl", _journal),
    Kind("metrics", "metrics.json", "json", lambda root: read_metrics(root / "metrics.json")),
    Kind("leakage", "mia/m.json", "json", lambda root: read_scores(root / "mia/m.json")),
    Kind("scores", "mia/m.jsonl", "jsonl", _scores),
    Kind("results", "results.jsonl", "jsonl", _results),
    Kind("step", "step.json", "json", lambda root: typed_files.read_json(root / "step.json", Done)),
    Kind("published", "published.toml", "toml", lambda root: read_published(root / "published.toml")),
    Kind("sweep", "grid.toml", "toml", _sweep),
    Kind("secret", "secret.key", "plain", workspace_secret),
    Kind("model-config", "model/config.json", "json", _model),
    Kind("model-weights", "model/model.safetensors", "tensors", _model),
]
"""The one list of what is read."""
