"""The published settings of each task, as the layers that `perpcs.toml` and flags override.

Sources: Per-PCs (Tan et al., 2024), appendix on hyperparameters; PriME (Personalized LLM merging), likewise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from perpcs_cli.artifacts.metrics import ACCURACY, ERROR, ROUGE
from perpcs_cli.artifacts.settings import Paper, Preset
from perpcs_cli.tasks.presets import preset_settings
from perpcs_cli.tasks.spec import get_task


class Published(NamedTuple):
    """(batch, epochs, rate) of the sharers' training in each paper; settings of gates, assembly and search."""

    per_pcs: tuple[int, int, float]
    gate: tuple[int, int, float]
    """Batch, steps, rate."""
    top_k: int
    assemble_batch: int
    prime: tuple[int, int, float]
    adapt_batch: int
    search: tuple[int, int, float]
    """PriME's number of LoRAs, budget and share of the history."""


PUBLISHED = {
    "citation": Published((16, 1, 1e-5), (6, 100, 1e-5), 1, 16, (8, 1, 1e-4), 16, (5, 50, 0.8)),
    "movie_tagging": Published((6, 3, 2e-5), (6, 100, 2e-5), 3, 16, (6, 3, 2e-4), 16, (3, 30, 0.6)),
    # The papers have no news categories; its form is movie tagging's.
    "news_category": Published((6, 3, 2e-5), (6, 100, 2e-5), 3, 16, (6, 3, 2e-4), 16, (3, 30, 0.6)),
    "product_rating": Published((2, 2, 1e-5), (4, 100, 1e-5), 1, 6, (4, 2, 1e-4), 8, (5, 50, 1.0)),
    "news_headline": Published((10, 3, 2e-5), (6, 50, 2e-5), 1, 16, (8, 3, 1e-4), 8, (3, 30, 0.8)),
    "scholarly_title": Published((3, 2, 2e-5), (6, 50, 2e-5), 1, 10, (8, 2, 1e-4), 8, (3, 50, 1.0)),
    "tweet_paraphrase": Published((16, 2, 1e-5), (6, 50, 2e-5), 2, 16, (8, 1, 1e-4), 16, (3, 30, 1.0)),
}


LIKE = {ACCURACY: "movie_tagging", ERROR: "product_rating", ROUGE: "news_headline"}
"""The task whose settings an own one starts from, by its metrics."""


def published_settings(task_name: str, paper: Paper = "per-pcs", preset: Preset = "perpcs") -> dict[str, Any]:
    """The settings layer of a task: the hyperparameters of a paper, and over them what the preset states.

    An own task has those of the LaMP task with the same metrics, and over everything what its file states. Raises
    UsageError for an unknown task.
    """
    task = get_task(task_name)
    row = PUBLISHED[LIKE[task.metrics] if task.is_own else task.name]
    batch, epochs, lr = row.per_pcs if paper == "per-pcs" else row.prime
    gate_batch, gate_steps, gate_lr = row.gate
    similar, budget, share = row.search
    layer: dict[str, Any] = {
        "task": str(task.file) if task.is_own else task.name,
        "paper": paper,
        "preset": preset,
        "lora": {},
        "adapt": {"batch_size": row.adapt_batch, "epochs": 3, "lr": 1e-4},
        "train": {"batch_size": batch, "epochs": epochs, "lr": lr},
        "gate": {"batch_size": gate_batch, "steps": gate_steps, "lr": gate_lr, "weight_decay": 0.0},
        "assemble": {"top_k": row.top_k, "batch_size": row.assemble_batch},
        "embed": {},
        "prime": {"similar": similar, "budget": budget, "data_fraction": share},
        "predict": {"max_new_tokens": task.max_new_tokens},
    }
    for key, value in [*preset_settings(preset, paper).items(), *task.settings.items()]:
        layer[key] = {**layer.get(key, {}), **value} if isinstance(value, dict) else value
    return layer
