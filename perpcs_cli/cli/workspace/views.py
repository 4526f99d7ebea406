"""What `perpcs show` prints of each kind of file: facts in lines, then a map, a table or a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import msgspec

from perpcs_cli.artifacts.io.typed_files import json_bytes
from perpcs_cli.artifacts.privacy import spoken
from perpcs_cli.artifacts.recipe import mean_weights
from perpcs_cli.cli.personalize.recipe_rows import made_of
from perpcs_cli.cli.process import visible
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.cli.workspace.maps import LETTERS, curve, mixes, numbers
from perpcs_cli.steps.inspect import layer_map

ANSWER = 60
"""Characters of a text in a row."""


@dataclass(frozen=True)
class File:
    """What is shown: a file with what was read of it, and at most so many rows of a table."""

    path: Path
    content: Any
    rows: int


def recipe(file: File) -> str:
    """Who is in it with which weight, and the map of pieces."""
    found = file.content
    weights = mean_weights(found)
    letters = dict(zip(weights, LETTERS, strict=False))
    facts = [
        ("user", found.user_id),
        ("method", f"{found.method}, merge {found.merge}"),
        ("pool", found.pool),
        ("bytes", file.path.stat().st_size),
    ]
    parts = [
        (letters.get(name, "…"), f"{name}  {weight:+.3f} in the mean of all linear layers")
        for name, weight in islice(weights.items(), file.rows)
    ]
    return _facts(facts) + _facts(parts) + mixes(layer_map.mix_map(found), letters)


def adapter(file: File) -> str:
    """How it was trained, and the norm of each piece."""
    found, facts = file.content, [("user", file.content.user_id)]
    if card := found.card:
        facts += [
            ("trained", f"{card.examples} examples, {card.steps} steps" if card.examples is not None else ""),
            ("trained elsewhere", f"not known: {', '.join(card.adopted.unknown)}" if card.adopted else ""),
            ("loss", "" if card.first_loss is None else f"{card.first_loss:.4f} → {card.last_loss:.4f}"),
            ("privacy", spoken(card.privacy)),
            ("base", found.base),
        ]
    facts.append(("LoRA", f"rank {found.config.r}, scale {found.scale:g}, {len(found.modules)} linear layers"))
    return _facts(facts) + "‖scale · B A‖, Frobenius\n" + numbers(layer_map.norm_map(found))


def gates(file: File) -> str:
    """Of which adapter they are, and the length of each."""
    tensors, card = file.content
    loss = "" if card.first_loss is None else f"{card.first_loss:.4f} → {card.last_loss:.4f}"
    facts = [("user", card.user_id), ("steps", card.steps), ("loss", loss), ("adapter", card.adapter)]
    return _facts(facts) + "length of each gate\n" + numbers(layer_map.gate_map(tensors))


def pool(file: File) -> str:
    """Its base and sharers."""
    manifest = file.content.manifest
    facts = [
        ("base", f"{manifest.model}, {manifest.base}"),
        ("pieces", f"rank {manifest.rank}, scale {manifest.scale:g}, {len(manifest.modules)} linear layers"),
        ("share ratio", manifest.share_ratio),
        ("gates", "yes" if manifest.gates else "no"),
        ("pseudonyms", "yes" if manifest.pseudonyms else "no"),
        ("digest", file.content.digest),
    ]
    table = [
        (one.user_id, len(manifest.modules) if one.shared is None else len(one.shared), spoken(one.privacy), one.path)
        for one in manifest.sharers[: file.rows]
    ]
    columns = [Column("sharer"), Column("pieces"), Column("privacy"), Column("path")]
    return _facts(facts) + render(Table(columns, [table]), "table") + _more(len(manifest.sharers), file.rows, "sharers")


def trace(file: File) -> str:
    """The search's course and its best candidates."""
    header, found = file.content
    course, best = [], float("-inf")
    for one in found:
        if not _alone(header.sharers, one.weights):
            best = max(best, one.utility)
            course.append(best)
    facts = [
        ("user", header.user_id),
        ("sharers", ", ".join(header.sharers)),
        ("candidates", f"{len(course)}, each on {header.items} items"),
        ("best so far", curve(course)),
    ]
    columns = [Column("utility"), Column("similarity"), Column("weights"), Column("")]
    table = [
        (
            one.utility,
            sum(one.similarity),
            ", ".join(f"{weight:+.3f}" for weight in one.weights),
            _alone(header.sharers, one.weights),
        )
        for one in sorted(found, key=lambda one: -one.utility)[: file.rows]
    ]
    return _facts(facts) + render(Table(columns, [table]), "table")


def predictions(file: File) -> str:
    """Answers beside the references of the workspace that they lie in."""
    references = _references(file.path)
    table = [
        (one.user_id, one.id, _cut(one.output), _cut(references.get((one.user_id, one.id)))) for one in file.content
    ]
    columns = [Column("user"), Column("query"), Column("answer"), Column("reference")]
    return render(Table(columns, [table[: file.rows]]), "table") + _more(len(file.content), file.rows, "answers")


def recipes(file: File) -> str:
    """What each user's recipe is made of."""
    table = [
        (one.user_id, one.method, len(one.sharers), made_of(mean_weights(one)))
        for one in islice(file.content, file.rows)
    ]
    columns = [Column("user"), Column("method"), Column("sharers"), Column("made of")]
    return render(Table(columns, [table]), "table") + _more(len(file.content), file.rows, "recipes")


def users(file: File) -> str:
    """Users with what they have."""
    table = [
        (one.user_id, len(one.history), len(one.queries), _cut(one.profile))
        for one in islice(file.content.values(), file.rows)
    ]
    columns = [Column("user"), Column("items"), Column("queries"), Column("profile")]
    return render(Table(columns, [table]), "table") + _more(len(file.content), file.rows, "users")


def profiles(file: File) -> str:
    """Each user's profile, whole."""
    lines = [f"{one.user_id}\t{visible(one.profile)}\n" for one in islice(file.content.values(), file.rows)]
    return "".join(lines) + _more(len(file.content), file.rows, "profiles")


def embeddings(file: File) -> str:
    """Of whom, by what."""
    size = tuple(file.content.vectors.shape)
    facts = [("encoder", file.content.card.encoder), ("of", f"each user's {file.content.card.what}"), ("vectors", size)]
    return _facts([*facts, ("users", ", ".join(islice(file.content.card.users, file.rows)))])


def metrics(file: File) -> str:
    """As `perpcs eval` printed it."""
    from perpcs_cli.cli.evaluate.eval_ import metrics_table

    return render(metrics_table(file.content), "table")


def leakage(file: File) -> str:
    """As `perpcs mia` printed it."""
    from perpcs_cli.cli.evaluate.mia import leakage_table

    return leakage_table(file.content)


def anything(file: File) -> str:
    """As JSON."""
    return json_bytes(plain(file.content)).decode()


VIEWS: dict[str, Callable[[File], str]] = {
    "recipe": recipe,
    "packed recipes": recipes,
    "adapter": adapter,
    "gates": gates,
    "pool": pool,
    "trace": trace,
    "predictions": predictions,
    "users": users,
    "profiles": profiles,
    "embeddings": embeddings,
    "metrics": metrics,
    "membership inference": leakage,
}
"""What is shown of each kind of file; of others their JSON."""


def plain(content: Any) -> Any:
    """The content of a file as JSON has it, with what its view computes."""
    from perpcs_cli.artifacts.adapter import Adapter
    from perpcs_cli.artifacts.embeddings import Embeddings
    from perpcs_cli.artifacts.gate import GateCard
    from perpcs_cli.artifacts.pool import OpenPool

    if isinstance(content, Adapter):
        found = {"user_id": content.user_id, "rank": content.config.r, "scale": content.scale, "card": content.card}
        return plain({**found, "norms": layer_map.norm_map(content)})
    if isinstance(content, OpenPool):
        return plain({**msgspec.to_builtins(content.manifest), "digest": content.digest})
    if isinstance(content, Embeddings):
        return plain({**msgspec.to_builtins(content.card), "vectors": list(content.vectors.shape)})
    if isinstance(content, tuple) and isinstance(content[1], GateCard):
        return plain({"card": content[1], "lengths": layer_map.gate_map(content[0])})
    if isinstance(content, tuple):
        return plain({"header": content[0], "evaluations": content[1]})
    return msgspec.to_builtins(content, enc_hook=str)


def _facts(facts: Iterable[tuple[str, object]]) -> str:
    """A line each, with the values below each other; those without a value are left out."""
    kept = [(name, str(value)) for name, value in facts if value not in ("", None)]
    width = max((len(name) for name, _ in kept), default=0)
    return "".join(f"{name:{width}}  {visible(value)}\n" for name, value in kept)


def _alone(sharers: Sequence[str], weights: Sequence[float]) -> str:
    """What the search compares its candidates with: the base, and each sharer alone, which is no candidate."""
    used = [(name, weight) for name, weight in zip(sharers, weights, strict=False) if weight]
    if not used:
        return "the base model"
    return f"{used[0][0]} alone, to compare" if len(used) == 1 and used[0][1] == 1 else ""


def _references(path: Path) -> dict[tuple[str, str], str]:
    """The answers of the queries in the users.jsonl of the workspace that a file of predictions lies in."""
    from perpcs_cli.artifacts.users import each_user
    from perpcs_cli.steps.workspace import Places

    beside = Places(path.resolve().parent.parent).users
    if not beside.exists():
        return {}
    return {(u.user_id, q.id): q.output for u in each_user(beside) for q in u.queries if q.output is not None}


def _cut(text: str | None) -> str | None:
    return None if text is None else shorten(text, ANSWER, placeholder=" …")


def _more(count: int, rows: int, things: str) -> str:
    return f"… {count - rows} more {things}; --rows shows more\n" if count > rows else ""
