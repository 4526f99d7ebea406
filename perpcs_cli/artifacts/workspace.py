"""`perpcs.toml`: the settings of a workspace, and the default names of the files in it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from perpcs_cli.artifacts import store
from perpcs_cli.errors import UsageError

FILE = "perpcs.toml"

Preset = Literal["per-pcs", "prime"]
Schedule = Literal["linear", "cosine", "constant"]
Merge = Literal["product", "factor"]
Scoring = Literal["published", "paper"]
Aggregate = Literal["attention", "uniform"]
Granularity = Literal["lora", "layer"]
Weighting = Literal["softmax", "uniform", "single"]
Optimizer = Literal["cma", "ngiohtuned", "tbpsa", "random"]
DeviceName = str
"""`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class LoraSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of every adapter. Published: rank 8, alpha 8, dropout 0.05 on q, k, v and o."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AdamW on the answers. `batch_size` rows a step; the loss is the mean over a batch's answer tokens."""

    batch_size: int
    lr: float
    epochs: int = 1
    steps: int | None = None
    """Optimizer steps; overrides `epochs`."""
    schedule: Schedule = "linear"
    warmup: float = 0.0
    """Share of the steps in which the rate rises linearly from 0."""
    weight_decay: float = 0.01
    clip: float = 0.3
    """Largest norm of the gradient; 0 for no clipping."""
    accumulate: int = 1
    """Batches per optimizer step."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class AssembleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gate scores become weights (Per-PCs, section 3.3)."""

    top_k: int
    batch_size: int
    """History examples that share one decision; the weights of all batches are averaged."""
    recent: int = 50
    """Only the newest items of the history are read."""
    top_p: float | None = None
    sample: bool = False
    sample_from: int = 10
    aggregate: Aggregate = "attention"
    scoring: Scoring = "published"
    merge: Merge = "product"
    temperature: float = 1.0


class EmbedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The encoder of user embeddings, by name, directory or hub id. PriME's is `microsoft/deberta-v3-large`."""

    encoder: str = "minilm"
    max_length: int = 512
    """Tokens read of each history item; the encoder's own limit holds too."""


class PrimeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How PriME searches the weights of similar sharers' LoRAs."""

    sharers: int
    """Most similar sharers whose LoRAs are merged."""
    budget: int
    """Candidates of each search."""
    data_fraction: float
    """Share of the target's history that candidates are scored on, drawn by seed."""
    alpha: tuple[float, ...] = (1.0,)
    """Weights of the similarity to the sharers in the reward; one search each."""
    granularity: Granularity = "lora"
    bounds: tuple[float, float] = (-1.5, 1.5)
    sigma: float = 0.5
    """Standard deviation of the first generation, around 0."""
    popsize: int | None = None
    """Candidates of a generation; None for the optimizer's own, 4 + ⌊3 ln n⌋ of n weights."""
    metric: str = "sum"
    """The sum of the task's two metrics, or the name of one."""
    optimizer: Optimizer = "cma"
    merge: Merge = "product"
    recent: int | None = None
    """Only the newest items of the history; None for all."""


class PredictSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Greedy decoding in batches of at most `batch_tokens` tokens, padding and new tokens included."""

    batch_tokens: int = 16384
    batch_rows: int = 256
    max_new_tokens: int


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.workspace/1"
):
    """Everything that `perpcs.toml` can say."""

    task: str
    model: str
    preset: Preset = "per-pcs"
    task_adapter: str = ""
    """Directory of the task adapter that is merged into the base; empty for none."""
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    seed: int = 0
    max_length: int = 2048
    """Longest sequence in tokens, prompt and answer; the model's own limit holds too."""
    lora: LoraSettings
    adapt: TrainSettings
    train: TrainSettings
    gate: TrainSettings
    assemble: AssembleSettings
    embed: EmbedSettings
    prime: PrimeSettings
    predict: PredictSettings


def read_settings(path: Path) -> dict[str, Any]:
    """The plain content of a `perpcs.toml`. Raises DataError where it is missing, broken or of another version."""
    return store.read_toml(path, str(Settings.__struct_config__.tag))


def make_settings(*layers: dict[str, Any], where: object = None) -> Settings:
    """Later layers win over earlier ones, key by key. Raises UsageError for unknown keys and wrong types."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            else:
                merged[key] = value
    try:
        return check_settings(msgspec.convert({"format": Settings.__struct_config__.tag, **merged}, Settings), where)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}", where=where) from None


Rule = tuple[str, object, bool, str]
"""(key, value, whether it is in range, the range in words)."""


def check_settings(settings: Settings, where: object = None) -> Settings:
    """Return the settings, or raise one UsageError that names every value out of range."""
    lora, predict, assemble = settings.lora, settings.predict, settings.assemble
    rules: list[Rule] = [
        ("max_length", settings.max_length, settings.max_length >= 8, "at least 8"),
        ("lora.rank", lora.rank, lora.rank >= 1, "at least 1"),
        ("lora.alpha", lora.alpha, 0 < lora.alpha < math.inf, "above 0"),
        ("lora.dropout", lora.dropout, 0 <= lora.dropout < 1, "at least 0 and below 1"),
        ("lora.targets", len(lora.targets), bool(lora.targets), "at least one linear layer"),
    ]
    for name in ("adapt", "train", "gate"):
        section: TrainSettings = getattr(settings, name)
        counts = {"batch_size": section.batch_size, "epochs": section.epochs, "accumulate": section.accumulate}
        if section.steps is not None:
            counts["steps"] = section.steps
        rules += [(f"{name}.{key}", count, count >= 1, "at least 1") for key, count in counts.items()]
        rules += [
            (f"{name}.lr", section.lr, 0 < section.lr < 1000, "above 0 and below 1000"),
            (f"{name}.warmup", section.warmup, 0 <= section.warmup <= 1, "between 0 and 1"),
            (f"{name}.weight_decay", section.weight_decay, section.weight_decay >= 0, "at least 0"),
            (f"{name}.clip", section.clip, section.clip >= 0, "at least 0"),
        ]
    for key in ("top_k", "batch_size", "recent", "sample_from"):
        rules.append((f"assemble.{key}", getattr(assemble, key), getattr(assemble, key) >= 1, "at least 1"))
    if assemble.top_p is not None:
        rules.append(("assemble.top_p", assemble.top_p, 0 < assemble.top_p <= 1, "above 0 and at most 1"))
    rules.append(("assemble.temperature", assemble.temperature, assemble.temperature > 0, "above 0"))
    rules += _prime_rules(settings.prime)
    rules.append(("embed.max_length", settings.embed.max_length, settings.embed.max_length >= 8, "at least 8"))
    for key in ("batch_tokens", "batch_rows", "max_new_tokens"):
        rules.append((f"predict.{key}", getattr(predict, key), getattr(predict, key) >= 1, "at least 1"))
    wrong = [f"{key} must be {rule}, and is {value}" for key, value, fine, rule in rules if not fine]
    if wrong:
        raise UsageError("settings: " + "; ".join(wrong), where=where)
    return settings


def _prime_rules(prime: PrimeSettings) -> list[Rule]:
    low, high = prime.bounds
    share, alphas = prime.data_fraction, prime.alpha
    rules: list[Rule] = [
        ("prime.sharers", prime.sharers, prime.sharers >= 1, "at least 1"),
        ("prime.budget", prime.budget, prime.budget >= 1, "at least 1"),
        ("prime.data_fraction", share, 0 < share <= 1, "above 0 and at most 1"),
        ("prime.alpha", alphas, bool(alphas) and all(0 <= a < math.inf for a in alphas), "one or more numbers from 0"),
        ("prime.bounds", prime.bounds, -math.inf < low <= 0 <= high < math.inf and low < high, "a range around 0"),
        ("prime.sigma", prime.sigma, 0 < prime.sigma < math.inf, "above 0"),
    ]
    if prime.popsize is not None:
        rules.append(("prime.popsize", prime.popsize, prime.popsize >= 2, "at least 2"))
    if prime.recent is not None:
        rules.append(("prime.recent", prime.recent, prime.recent >= 1, "at least 1"))
    return rules


def to_toml(settings: Settings) -> str:
    """The text of a `perpcs.toml`: top-level keys first, then one table a section."""
    content = msgspec.to_builtins(settings)
    lines = [f"{key} = {_toml(value)}" for key, value in content.items() if not isinstance(value, dict)]
    for key, section in content.items():
        if isinstance(section, dict):
            lines += ["", f"[{key}]"]
            lines += [f"{name} = {_toml(value)}" for name, value in section.items() if value is not None]
    return "\n".join(lines) + "\n"


def set_task_adapter(path: Path, place: str) -> None:
    """Name the task adapter in a `perpcs.toml`, which otherwise stays as a person wrote it."""
    text = store.read_text(path)
    pattern = r"""(?m)^([ \t]*task_adapter[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
    changed, count = re.subn(pattern, lambda found: found[1] + _toml(place), text, count=1)
    store.write_text(path, changed if count else f"task_adapter = {_toml(place)}\n{text}")


def _toml(value: object) -> str:
    # JSON's strings, numbers, booleans and arrays are TOML's, but for non-ASCII escapes, which are the same too.
    return msgspec.json.encode(value).decode()
