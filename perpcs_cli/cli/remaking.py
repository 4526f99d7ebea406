"""Making a recipe again with the settings that its provenance names, as the command line that would do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.recipe import Recipe


def command_line(recipe: Recipe, path: Path, places: Sequence[str], sharers: int) -> tuple[str, ...]:
    """The command that makes the recipe at `path` over a pool with `sharers` sharers, or () where there is nobody left.

    `places`: the flags for workspace and pool.
    """
    if not sharers:
        return ()
    settings = recipe.provenance.settings
    shared = [*places, "--user", recipe.user_id, "--out", str(path.parent.resolve()), "--task", settings["task"]]
    seeded = [*shared, "--seed", str(recipe.provenance.seed), "--max-length", str(settings.get("max_length", 2048))]
    seeded += _flags({name: settings.get(name) for name in ("model", "dtype", "device")})
    if recipe.method == "per-pcs":
        found = settings["assemble"]
        top_k = min(found["top_k"], sharers)
        return ("assemble", *seeded, *_flags({**found, "top_k": top_k}), *_prompt_flags(settings["prompts"]))
    if recipe.method == "prime":
        found = {**settings["prime"], "alpha": settings["alpha"]}
        found["bounds"] = ",".join(map(str, found["bounds"]))
        found["sharers"] = min(found["sharers"], sharers)
        return ("prime", *seeded, *_flags(found), *_shown_flags(settings["prompts"]))
    keys = ("weights", "top_k", "temperature", "merge")
    found = {key: settings[key] for key in keys}
    return ("retrieve", *shared, *_flags({**found, "top_k": min(found["top_k"], sharers)}))


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as flags; what is None was not set. The only one that is true or false has a flag for either."""
    flags = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            # One word, so that a negative number is not taken for a flag.
            flags.append(f"--{name}={value}")
    return flags


def _prompt_flags(shown: Mapping[str, Any]) -> list[str]:
    """The flags that give examples what `shown` says; by default they show one item, and a profile if there is one."""
    return [] if shown["profile"] is None else _shown_flags(shown) or ["--plain"]


def _shown_flags(shown: Mapping[str, Any]) -> list[str]:
    """The flags of what `shown` shows; none where it shows nothing."""
    flags = [f"--{key.replace('_', '-')}={shown[key]}" for key in ("retrieve", "random_history") if shown[key]]
    return [*flags, "--with-profile"] if shown["profile"] else flags
