"""A valid file of every kind, made by our own writers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import msgspec
import torch
from helpers import provenance

from perpcs_cli.artifacts import (
    adapter,
    exported,
    gate,
    line_index,
    merged_model,
    packed_recipes,
    pool,
    predictions,
    profiles,
    recipe,
    results,
    settings,
    trace,
    users,
)
from perpcs_cli.artifacts.embeddings import read_embeddings, write_embeddings
from perpcs_cli.artifacts.io import hashing, journal, tensors, typed_files
from perpcs_cli.artifacts.labels import Gold, Labels
from perpcs_cli.artifacts.metrics import Metrics, Source, SystemMetrics
from perpcs_cli.artifacts.mia import (
    AttackLeakage,
    Leakage,
    ProtocolLeakage,
    RocPoint,
    ScoredExample,
    SystemLeakage,
    write_roc,
)
from perpcs_cli.artifacts.pools import revocation
from perpcs_cli.artifacts.pools.build import build_pool
from perpcs_cli.artifacts.pools.secret import workspace_secret
from perpcs_cli.artifacts.privacy import Guarantee, Mechanism
from perpcs_cli.artifacts.selection import Chosen, Selection, write_selection
from perpcs_cli.artifacts.split import Parts, Split, write_split
from perpcs_cli.experiments.sweeps.runner import Done
from perpcs_cli.steps.data import fetch_lamp
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
OWN_TASK = """format = "perpcs.task/1"
name = "mood"
title = "Mood of a note"
required = ["note", "weather", "mood"]
optional = ["place"]
query_fields = ["note", "weather"]
input_field = "note"
output_field = "mood"
labels = ["glad", "sad"]
metrics = ["accuracy", "f1"]
max_new_tokens = 4
item_words = 50
retrieved_words = 20
trains_with_context = true
query_template = "Note: {note} Weather: {weather} Mood:"
history_template = "Then: {note} Mood:"
line_template = "{note}, {mood}\\n"
search_template = "{note}"
generates_history = 0
profile_question = "Who is it?"
profile_line = "{note}"
profile_more = " ({mood})"
[columns]
user_id = "who"
query_parts = ["later", "last"]
fields = { note = "text" }
answers = { 1 = "glad", 0 = "sad" }
[settings.train]
lr = 1e-3
batch_size = 2
"""
OWN_ROWS = "who,part,text,weather,mood\nu,,Out all day.,sun,1\nu,,In all day.,rain,0\nu,later,To the sea.,sun,1\n"
SWEEP = """format = "perpcs.sweep/1"
task = "movie_tagging"
model = "m"
data = ["a", "b"]
seeds = [0, 1]
paper = "prime"
preset = "published-code"
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
    (root / "mood.task.toml").write_text(OWN_TASK)
    (root / "mood.csv").write_text(OWN_ROWS)
    asked = {"id": 1, "text": "To the sea.", "weather": "sun", "mood": "glad"}
    mood = {"who": "u", "history": [{**asked, "date": 2020}], "queries": [asked], "profile": "dry"}
    typed_files.write_jsonl(root / "mood.jsonl", [mood])
    secret = workspace_secret(root)
    _write_data(root)
    _write_sharers(root)
    _write_foreign(root)
    _write_results(root)
    _write_model(root / "model")
    opened = pool.open_pool(root / "pool.json")
    for name, sharer in (("half.json", "u0"), ("again.json", "u1")):
        shutil.copy(root / "pool.json", root / name)
        todo = revocation_of(root, opened, sharer)
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
    (root / "fetched.json").write_bytes(b"[]")
    card = fetch_lamp.FetchCard(url="https://example.org/fetched.json", size=2, sha256=hashing.digest_bytes(b"[]"))
    typed_files.write_json(root / "fetched.json.card.json", card)
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


def _write_foreign(root: Path) -> None:
    """A LoRA of somebody else's, of two ranks, and an export."""
    foreign = root / "foreign"
    foreign.mkdir()
    named = {
        f"{adapter.PREFIX}{module}.lora_{side}.weight": torch.ones((rank, 4) if side == "A" else (6, rank))
        for module, rank in zip(MODULES, (2, 3, 2, 3), strict=True)
        for side in "AB"
    }
    tensors.write_tensors(foreign / adapter.WEIGHTS, named, {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}
    patterns = {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 1.5}}
    typed_files.write_json(foreign / adapter.CONFIG, {**config, **patterns, "bias": "none", "lora_bias": False})
    (root / "export").mkdir()
    shutil.copy(foreign / adapter.WEIGHTS, root / "export")
    told = exported.Exported(
        form="adapter",
        model="m",
        method="prime",
        merge="product",
        rank=3,
        errors={MODULES[0]: 0.25},
        task_adapter="folded in",
        sharers={"u0": exported.Part(weight=0.5, privacy=GUARANTEE)},
        license="mit",
        compared=exported.Compared(difference=1e-5, largest=20.0, prompts=3, dtype="float32"),
        files={adapter.WEIGHTS: hashing.digest_file(foreign / adapter.WEIGHTS)},
        provenance=provenance(),
    )
    typed_files.write_json(root / "export" / exported.FILE, told)


def _write_results(root: Path) -> None:
    opened = pool.open_pool(root / "pool.json")
    names, weights = recipe.pack({module: [("u0", 0.75), ("u1", -0.25)] for module in MODULES})
    made = {"user_id": "u2", "method": "prime", "merge": "product", "pool": opened.digest, "provenance": provenance()}
    one = recipe.Recipe(**made, sharers=names, weights=weights)
    recipe.write_recipe(root / "recipes/u2.json", one)
    both = [msgspec.structs.replace(one, user_id="u1"), one]
    packed_recipes.write_packed(root / "recipes-packed.jsonl", both)
    packed_recipes.write_packed(root / "recipes-packed.partial.jsonl", both)
    line_index.write_index(root / "lines", "state", [line_index.entry_of(user, (0, 9)) for user in IDS])
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
        call=0,
        of=2,
        outputs=hashing.digest_value([[3, 4], [5]]),
        tokens=((3, 4), (5,)),
    )
    evaluated = [one, msgspec.structs.replace(one, weights=(0.0, 0.5), tokens=None)]
    typed_files.write_jsonl(root / "traces/u2.jsonl", [trace_header(opened), *evaluated])
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
    rates = [(math.inf, 0.0, 0.0), (-0.5, 0.0, 1.0), (-1.5, 1.0, 1.0)]
    curve = {"system": "sharers", "protocol": "published", "attack": "loss"}
    write_roc(root / "mia/m.roc.csv", [RocPoint(**curve, threshold=t, fpr=f, tpr=h) for t, f, h in rates])
    attack = AttackLeakage(auc=0.75, balanced_accuracy=0.7, targets={"u2": 0.75, "u0": 0.5})
    found = ProtocolLeakage(targets=1, members=1, non_members=1, users=2, strongest="loss", attacks={"loss": attack})
    leakage = Leakage(
        task=TASK.name,
        systems={"sharers": SystemLeakage(kind="sharers", protocols={"published": found})},
        duplicates=0,
        scores=Source(file="m.jsonl", sha256=hashing.digest_file(root / "mia/m.jsonl")),
        roc=Source(file="m.roc.csv", sha256=hashing.digest_file(root / "mia/m.roc.csv")),
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
    typed_files.write_json(directory / merged_model.FILE, merged_model.Merged(provenance=provenance()))
    tensors.write_tensors(directory / "model.safetensors", {"model.norm.weight": torch.ones(8)}, {"format": "pt"})


def trace_header(opened: pool.OpenPool) -> trace.TraceHeader:
    """The first line of the trace."""
    origin = msgspec.structs.replace(provenance(), settings={"metric": "sum"}, inputs={"pool": opened.digest})
    return trace.TraceHeader(user_id="u2", sharers=SHARERS, weights=2, items=2, provenance=origin)


def revocation_of(root: Path, opened: pool.OpenPool, sharer: str, recipes: Path | None = None) -> revocation.Revocation:
    """What is to be done to take a sharer out."""
    return revocation.plan(
        opened,
        {sharer: {sharer}},
        "renormalize",
        recipes=[recipes or root / "recipes"],
        traces=root / "traces",
        embeddings=root / "embeddings.safetensors",
        directories=[],
    )
