"""`perpcs.toml`: every setting, declared once: its type, range, default and what it means.

From a declaration come the key in the file, the check of its range, the flag, the variable in the environment and the
reference page (`declared`). A setting without a default here has one by the task, published by the papers.

One room, though long: it is the one place where settings are declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from perpcs_cli.artifacts.declarations import Declared, declarations
from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.limits import RANK
from perpcs_cli.errors import UsageError

FILE = "perpcs.toml"

Paper = Literal["per-pcs", "prime"]
Preset = Literal["perpcs", "paper", "published-code"]
Init = Literal["shared", "own"]
Schedule = Literal["linear", "cosine", "constant"]
Merge = Literal["product", "factor"]
Scoring = Literal["published", "paper"]
GateDtype = Literal["float32", "bfloat16"]
Activations = Literal["assembled", "base"]
Aggregate = Literal["attention", "uniform"]
Granularity = Literal["lora", "layer"]
Weighting = Literal["softmax", "uniform", "single"]
Optimizer = Literal["cma", "nevergrad-cma", "ngiohtuned", "tbpsa", "random"]
Prompts = Literal["once", "both"]
Winner = Literal["base", "candidate"]
WhiteSpace = Literal["kept", "collapsed"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["none", "4bit"]

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
FromZero = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
Dropout = Annotated[float, Meta(ge=0, lt=1, description="Dropout of the LoRA's input.")]
Length = Annotated[int, Meta(ge=8, description="Longest sequence in tokens; the model's own limit holds too.")]
Temperature = Annotated[
    FromZero,
    Meta(
        description="Draw answers at this temperature; 0: always the most probable token.",
        extra={"flag": "decode-temperature"},
    ),
]
TopP = Annotated[
    Share,
    Meta(description="Draw among the most probable tokens that have so much together.", extra={"flag": "decode-top-p"}),
]
PromptsSetting = Annotated[
    Prompts, Meta(description="Each history item once, or as training does: plain, and again with context.")
]
MergeSetting = Annotated[Merge, Meta(description="Sum w·BA (the papers), or (Sum w·B)(Sum w·A) (their code).")]


class LoraSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of every adapter. Published: rank 8, alpha 8, dropout 0.05 on q, k, v and o."""

    rank: Annotated[Count, Meta(le=RANK, description="Rank of the LoRA.")] = 8
    alpha: Annotated[Positive, Meta(description="The LoRA's scale is this / rank.", extra={"flag": "lora-alpha"})] = 8.0
    dropout: Dropout = 0.05
    init: Annotated[Init, Meta(description="All LoRAs of a seed start from one A, or each from its own.")] = "shared"
    targets: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Linear layers with a piece, by their last name.", extra={"flag": None}),
    ] = ("q_proj", "k_proj", "v_proj", "o_proj")


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AdamW on the answers. `batch_size` rows a step; the loss is the mean over a batch's answer tokens."""

    batch_size: Annotated[Count, Meta(description="Examples per batch.")]
    lr: Annotated[float, Meta(gt=0, lt=1000, description="Learning rate of AdamW.")]
    epochs: Annotated[Count, Meta(description="Passes over the examples.")] = 1
    steps: Annotated[Count | None, Meta(description="Optimizer steps, instead of epochs.")] = None
    schedule: Annotated[Schedule, Meta(description="How the rate falls.")] = "linear"
    warmup: Annotated[float, Meta(ge=0, le=1, description="Share of the steps in which the rate rises from 0.")] = 0.0
    weight_decay: Annotated[FromZero, Meta(description="AdamW's weight decay.")] = 0.01
    clip: Annotated[FromZero, Meta(description="Largest gradient norm; 0 for no clipping.")] = 0.3
    accumulate: Annotated[Count, Meta(description="Batches per optimizer step; an epoch's last may have fewer.")] = 1
    checkpointing: Annotated[bool, Meta(description="Recompute activations: less memory, more time.")] = False


class GateSettings(TrainSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same for gates. While they are trained, their LoRA may see dropout as it did in its own training."""

    dropout: Dropout = 0.0


class AssembleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gate scores become weights (Per-PCs, section 3.3)."""

    top_k: Annotated[Count, Meta(description="Pieces per linear layer.")]
    batch_size: Annotated[Count, Meta(description="Examples per batch.")]
    recent: Annotated[Count, Meta(description="Only the newest items of each history.")] = 2000
    shuffle: Annotated[bool, Meta(description="Batch the examples in an order drawn by seed.")] = False
    similar: Annotated[Count | None, Meta(description="How many of the most similar sharers.")] = None
    top_p: Annotated[
        Share | None, Meta(description="The best pieces whose softmax adds up to so much, instead of --top-k.")
    ] = None
    sample: Annotated[bool, Meta(description="Draw pieces by their softmax, or take the best.")] = False
    keep_k: Annotated[bool, Meta(description="With --sample and --top-p: draw among at least --top-k pieces.")] = False
    sample_from: Annotated[Count, Meta(description="Draw from so many of the best.")] = 10
    aggregate: Annotated[Aggregate, Meta(description="Weights by softmax of the scores, or equal.")] = "attention"
    scoring: Annotated[Scoring, Meta(description="Gate scores as in the published code or as in the paper.")] = (
        "published"
    )
    activations: Annotated[
        Activations,
        Meta(description="Score what the layers assembled so far pass on (published), or what the base does."),
    ] = "assembled"
    contrast: Annotated[
        int, Meta(ge=0, description="Score what differs from the mean of so many items of base users; 0: score all.")
    ] = 0
    gate_dtype: Annotated[
        GateDtype, Meta(description="Number type of the gates in memory; bfloat16 takes half of it.")
    ] = "float32"
    merge: MergeSetting = "product"
    temperature: Annotated[Positive, Meta(description="Temperature of the softmax.")] = 1.0


class EmbedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The encoder of user embeddings. PriME's is `microsoft/deberta-v3-large`."""

    encoder: Annotated[str, Meta(description="A name, directory or hub id of an encoder.")] = "minilm"
    max_length: Length = 512


class PrimeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How PriME searches the weights of similar sharers' LoRAs."""

    similar: Annotated[Count, Meta(description="How many of the most similar sharers.")]
    budget: Annotated[Count, Meta(description="Candidates of each search.")]
    data_fraction: Annotated[Share, Meta(description="Share of the history to score on, drawn by seed.")]
    alpha: Annotated[
        tuple[FromZero, ...],
        Meta(min_length=1, description="Weight of the similarity, or several, as 0,0.2,1; one search each."),
    ] = (0.0,)
    granularity: Annotated[Granularity, Meta(description="A weight per LoRA, or per layer of each.")] = "lora"
    bounds: Annotated[tuple[float, float], Meta(description="Range of the weights; B is -B,B.")] = (-1.5, 1.5)
    sigma: Annotated[Positive, Meta(description="Spread of the first generation around 0.")] = 0.5
    popsize: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Meta(description="Candidates of a generation; by default 4 + 3 ln n of n weights, nevergrad-cma 4 + ln n."),
    ] = None
    metric: Annotated[str, Meta(description="One of the task's metrics, or their sum.")] = "sum"
    optimizer: Annotated[Optimizer, Meta(description="How to search; all but cma and random need nevergrad.")] = "cma"
    prompts: PromptsSetting = "once"
    ties: Annotated[
        Winner, Meta(description="Which is taken where the best candidate is just as good as the base.")
    ] = "base"
    merge: MergeSetting = "product"
    recent: Annotated[Count | None, Meta(description="Only the newest items of each history.")] = None
    race: Annotated[
        Annotated[float, Meta(gt=0, le=0.5)] | None,
        Meta(description="Stop candidates that are worse on the items so far, at this level of a t-test; 0.05, say."),
    ] = None
    race_items: Annotated[int, Meta(ge=2, description="With --race: history items between two tests.")] = 5


class SelectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sharers are selected."""

    kmeans_seed: Annotated[
        Annotated[int, Meta(ge=0, lt=2**32)] | None,
        Meta(description="Seed of k-means as scikit-learn takes it; by default made from the seed."),
    ] = None


class ProfileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How users' textual profiles are written (PAG)."""

    recent: Annotated[Count, Meta(description="Only the newest items of each history.")] = 10
    random_items: Annotated[Count | None, Meta(description="Show so many random items instead of the newest.")] = None
    max_new_tokens: Annotated[Count, Meta(description="Longest answer in tokens.")] = 300
    chat: Annotated[bool | None, Meta(description="Ask as in a chat.")] = None
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: Annotated[
        Count | None,
        Meta(description="Draw among so many of the most probable tokens.", extra={"flag": "decode-top-k"}),
    ] = None


class PredictSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decoding in batches of at most `batch_tokens` tokens, padding and new tokens included."""

    batch_tokens: Annotated[Count, Meta(description="Tokens per batch.")] = 16384
    batch_rows: Annotated[Count, Meta(description="Rows per batch.")] = 256
    max_new_tokens: Annotated[Count, Meta(description="Longest answer in tokens.")]
    temperature: Temperature = 0.0
    top_p: TopP = 1.0


class MiaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which prompts of which history items membership attacks ask about."""

    prompts: PromptsSetting = "once"
    recent: Annotated[Count | None, Meta(description="Only the newest items of each history.")] = None


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.workspace/3"
):
    """Everything that `perpcs.toml` can say."""

    task: Annotated[str, Meta(description="A task, as movie_tagging or LaMP_2M, or an own one: its file, as my.toml.")]
    model: Annotated[
        str, Meta(description="Base model: a name from `perpcs model list`, a local directory or a hub id.")
    ]
    paper: Annotated[Paper, Meta(description="The paper whose published hyperparameters to start from.")] = "per-pcs"
    preset: Annotated[
        Preset, Meta(description="Whose ways to start from: this tool's, the papers' text, or their published code.")
    ] = "perpcs"
    task_adapter: Annotated[
        str, Meta(description="Task adapter from `perpcs adapt`, merged into the base; 'none' for none.")
    ] = ""
    device: Annotated[str, Meta(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    dtype: Annotated[DtypeName, Meta(description="Number type; auto: what is fast here, as measured.")] = "auto"
    quantize: Annotated[
        Quantize, Meta(description="4bit: keep the base's weights in 4 bits (NF4), for devices with little memory.")
    ] = "none"
    seed: Annotated[int, Meta(ge=0, description="Seed of everything random.")] = 0
    max_length: Length = 2048
    white_space: Annotated[
        WhiteSpace,
        Meta(description="Of history items: as it is, or each run of it one space.", extra={"flag": None}),
    ] = "kept"
    lora: LoraSettings
    adapt: TrainSettings
    train: TrainSettings
    gate: GateSettings
    assemble: AssembleSettings
    embed: EmbedSettings
    select: SelectSettings = SelectSettings()
    profile: ProfileSettings = ProfileSettings()
    prime: PrimeSettings
    predict: PredictSettings
    mia: MiaSettings = MiaSettings()


@cache
def declared() -> dict[str, Declared]:
    """Every setting by its path, in the order of the file."""
    found = {}
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found.update({one.path: one for one in declarations(field.type, f"{field.name}.")})
    return {**{one.path: one for one in declarations(Settings, "") if one.help}, **found}


def read_settings(path: Path) -> dict[str, Any]:
    """The plain content of a `perpcs.toml`. Raises DataError where it is missing, broken or of another version."""
    return typed_files.read_toml(path, str(Settings.__struct_config__.tag))


def make_settings(*layers: Mapping[str, Any], where: object = None) -> Settings:
    """Later layers win over earlier ones, key by key.

    Raises UsageError for unknown keys and wrong types, or one that names every value out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
                merged[key] = {**merged[key], **value}
            else:
                merged[key] = value
    wrong = [problem for one in declared().values() if (problem := one.problem(_at(merged, one)))]
    if wrong:
        raise UsageError("settings: " + "; ".join(wrong), where=where)
    try:
        settings = msgspec.convert({"format": Settings.__struct_config__.tag, **merged}, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}", where=where) from None
    low, high = settings.prime.bounds
    if not (low <= 0 <= high and low < high):
        raise UsageError(f"settings: prime.bounds must be a range around 0, and is {(low, high)}", where=where)
    return settings


def _at(content: Mapping[str, Any], one: Declared) -> Any:
    table = content.get(one.section, {}) if one.section else content
    return table.get(one.key) if isinstance(table, Mapping) else None


def to_toml(settings: Settings) -> str:
    """The text of a `perpcs.toml`: top-level keys first, then one table a section."""
    import tomlkit

    content = {
        key: {name: value for name, value in part.items() if value is not None} if isinstance(part, dict) else part
        for key, part in msgspec.to_builtins(settings, builtin_types=()).items()
    }
    return tomlkit.dumps(content)


def set_task_adapter(path: Path, place: str) -> None:
    """Name the task adapter in a `perpcs.toml`, which otherwise stays as a person wrote it."""
    import tomlkit

    content = tomlkit.parse(typed_files.read_text(path))
    content["task_adapter"] = place
    typed_files.write_text(path, tomlkit.dumps(content))
