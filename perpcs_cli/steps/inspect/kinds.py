"""What kind of file something is, told by its content, and reading it whole with all checks."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts import (
    adapter,
    embeddings,
    exported,
    gate,
    labels,
    metrics,
    mia,
    packed_recipes,
    pool,
    predictions,
    profiles,
    published,
    recipe,
    results,
    selection,
    settings,
    split,
    sweep,
    trace,
    users,
)
from perpcs_cli.artifacts.io import hashing, limits, tensors, typed_files
from perpcs_cli.artifacts.pools.verify import verify_pool
from perpcs_cli.errors import DataError
from perpcs_cli.steps.workspace import Places, open_workspace
from perpcs_cli.tasks.spec import read_task

NOT_OURS = "is no kind of file that perpcs knows"


@dataclass(frozen=True)
class Kind:
    """A kind of file: what it is called, reading it, and all that is wrong with one that can be read."""

    name: str
    read: Callable[[Path], Any]
    check: Callable[[Path, Any], list[str]] = lambda path, content: []


def kind_of(path: Path) -> Kind:
    """The kind of a file, or of the directory of an adapter. Raises DataError where it is none of ours."""
    kind = _of_directory(path) if path.is_dir() else _of_file(path)
    if kind is None:
        hint = "Known are the files that perpcs writes and reads: see docs/files.md."
        raise DataError(NOT_OURS, where=path, hint=hint)
    return kind


def _of_directory(path: Path) -> Kind | None:
    return ADAPTER if (path / adapter.WEIGHTS).exists() or (path / adapter.CONFIG).exists() else None


def _of_file(path: Path) -> Kind | None:
    if path.suffix == ".safetensors":
        return _of_tensors(path)
    if path.suffix == ".toml":
        return BY_FORMAT.get(_name(_toml(path).get("format")))
    if path.suffix == ".jsonl":
        return _of_lines(path)
    if path.suffix != ".json":
        return None
    if path.name == adapter.CONFIG:
        return BESIDE_WEIGHTS
    data = typed_files.without_mark(typed_files.read_bytes(path, limits.DOCUMENT_BYTES))
    try:
        content = msgspec.json.decode(data)
    except typed_files.UNREADABLE as error:
        raise DataError(f"not valid JSON: {error}", where=path, hint="The file may be truncated.") from None
    if not isinstance(content, dict):
        return None
    return LABELS if "golds" in content else BY_FORMAT.get(_name(content.get("format")))


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(typed_files.read_text(path, limits.TOML_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid TOML: {error}", where=path) from None


def _of_tensors(path: Path) -> Kind | None:
    if path.name == adapter.WEIGHTS:
        return BESIDE_WEIGHTS
    card = tensors.open_tensors(path).metadata.get(tensors.META, "{}")
    try:
        content = msgspec.json.decode(card)
    except typed_files.UNREADABLE:
        return None
    return BY_FORMAT.get(_name(content.get("format"))) if isinstance(content, dict) else None


def _of_lines(path: Path) -> Kind | None:
    """By the first line: its format, or its keys."""
    for _, line in islice(typed_files.lines(path), 1):
        try:
            first = msgspec.json.decode(line)
        except typed_files.UNREADABLE as error:
            raise DataError(f"not valid JSON: {error}", where=f"{path}, line 1") from None
        if not isinstance(first, dict):
            return None
        if "format" in first:
            if _name(first["format"]) == "perpcs.recipe":
                return PACKED
            return BY_FORMAT.get(_name(first["format"]))
        return next((kind for keys, kind in BY_KEYS.items() if keys <= set(first)), None)
    raise DataError("is empty", where=path)


def _name(form: object) -> str:
    """`perpcs.recipe` of `perpcs.recipe/1`: the version is checked where the file is read."""
    return form.partition("/")[0] if isinstance(form, str) else ""


def _adapter_problems(_path: Path, content: adapter.Adapter) -> list[str]:
    content.digest_weights()
    for module in content.modules:
        content.piece(module)
    return []


def _gate_problems(path: Path, content: tuple[tensors.TensorFile, gate.GateCard]) -> list[str]:
    file, card = content
    for key in file.keys:
        file.read(key)
    weights = path.with_name(adapter.WEIGHTS)
    if weights.exists() and hashing.digest_file(weights) != card.adapter:
        return ["the gates are of another adapter than the one beside them"]
    return []


def _recipe_problems(path: Path, content: recipe.Recipe) -> list[str]:
    beside = Places(path.parent.parent).pool
    if not beside.exists():
        return []
    return _over(pool.open_pool(beside), path, content)


def _packed_problems(path: Path, content: list[recipe.Recipe]) -> list[str]:
    beside = Places(path.parent).pool
    if not beside.exists():
        return []
    there = pool.open_pool(beside)
    return [f"{one.user_id}: {problem}" for one in content for problem in _over(there, path, one)]


def _over(there: pool.OpenPool, path: Path, content: recipe.Recipe) -> list[str]:
    """What is wrong with a recipe over a pool."""
    if content.pool != there.digest:
        return [f"is of another pool than {there.path}"]
    named = recipe.unpack(content, there.modules, where=path)
    used = {sharer for mix in named.values() for sharer, _ in mix}
    return [f"uses {name!r}, who is not in the pool" for name in sorted(used - set(there.places))]


def _export_problems(path: Path, _content: exported.Exported) -> list[str]:
    exported.read_exported(path.parent)
    return []


def _prediction_problems(path: Path, content: list[predictions.Prediction]) -> list[str]:
    predictions.read_info(path, len(content))
    return []


def _profile_problems(path: Path, _content: dict[str, profiles.Profile]) -> list[str]:
    beside = path.with_suffix(".meta.json")
    if beside.exists() and profiles.read_info(path).sha256 != hashing.digest_file(path):
        return ["was changed since it was written"]
    return []


def _leakage_problems(path: Path, content: mia.Leakage) -> list[str]:
    found = []
    for source in (content.scores, content.roc):
        beside = path.parent / source.file
        if not beside.exists():
            found.append(f"{source.file}, which it tells of, is not there")
        elif hashing.digest_file(beside) != source.sha256:
            found.append(f"{source.file} has changed since")
    return found


def _settings(path: Path) -> settings.Settings:
    return open_workspace(path.parent).settings


def _typed(kind: type[Any]) -> Callable[[Path], Any]:
    return lambda path: typed_files.read_json(path, kind)


def _lines(kind: type[Any]) -> Callable[[Path], Any]:
    return lambda path: typed_files.read_jsonl(path, kind)


def _embedded(path: Path) -> embeddings.Embeddings:
    card = tensors.read_card(tensors.open_tensors(path), embeddings.EmbeddingsCard, "embeddings")
    return embeddings.read_embeddings(path, card.what)


def _journal(path: Path) -> list[Any]:
    """What a run that was stopped has made so far; each line is JSON."""
    return [msgspec.json.decode(line) for _, line in typed_files.lines(path)]


ADAPTER = Kind("adapter", adapter.open_adapter, _adapter_problems)
BESIDE_WEIGHTS = Kind(
    "adapter",
    lambda path: adapter.open_adapter(path.parent),
    lambda path, content: _adapter_problems(path.parent, content),
)
LABELS = Kind("LaMP's labels", labels.read_labels)
PACKED = Kind("packed recipes", lambda path: list(packed_recipes.each_recipe(path)), _packed_problems)
USERS = Kind("users", users.read_users)
PREDICTIONS = Kind("predictions", predictions.read_predictions, _prediction_problems)
BY_FORMAT = {
    "perpcs.workspace": Kind("settings of a workspace", _settings),
    "perpcs.task": Kind("task", read_task),
    "perpcs.sweep": Kind("sweep", sweep.read_sweep),
    "perpcs.published": Kind("published figures", published.read_published),
    "perpcs.split": Kind("split", split.read_split),
    "perpcs.selection": Kind("selection", selection.read_selection),
    "perpcs.sharer": BESIDE_WEIGHTS,
    "perpcs.gate": Kind("gates", gate.read_gates, _gate_problems),
    "perpcs.pool": Kind("pool", pool.open_pool, lambda path, content: verify_pool(content)),
    "perpcs.embeddings": Kind("embeddings", _embedded),
    "perpcs.recipe": Kind("recipe", _typed(recipe.Recipe), _recipe_problems),
    "perpcs.export": Kind("export", _typed(exported.Exported), _export_problems),
    "perpcs.trace": Kind("trace", trace.read_trace),
    "perpcs.pareto": Kind("Pareto fronts", _typed(trace.Pareto)),
    "perpcs.predictions": Kind("sidecar of predictions", _typed(predictions.PredictionsInfo)),
    "perpcs.profiles": Kind("sidecar of profiles", _typed(profiles.ProfilesInfo)),
    "perpcs.metrics": Kind("metrics", metrics.read_metrics),
    "perpcs.mia": Kind("membership inference", mia.read_leakage, _leakage_problems),
    "perpcs.result": Kind("results of a sweep", results.read_results),
    "perpcs.journal": Kind("beginning of a file", _journal),
}
"""The name of a format, without its version → what it is."""
BY_KEYS = {
    frozenset({"user_id", "id", "output"}): PREDICTIONS,
    frozenset({"user_id", "history"}): USERS,
    frozenset({"user_id", "profile"}): Kind("profiles", profiles.read_profiles, _profile_problems),
    frozenset({"system", "target", "scores"}): Kind("scores of membership inference", _lines(mia.ScoredExample)),
}
"""Keys of a file's first line that name no format → what it is."""
