"""The logits of a recipe, by the engine, beside those of what was exported, by the library that loads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.exported import Compared
from perpcs_cli.errors import PerpcsError
from perpcs_cli.steps.models_to_run import ModelsToRun

if TYPE_CHECKING:
    from torch import Tensor

    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.loading.base import Base

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference of logits that rounding explains, as a share of the largest logit."""


def compare(expected: Sequence[Tensor], found: Iterable[Tensor], dtype: str, *, exact: bool) -> Compared:
    """The largest difference of logits, prompt by prompt.

    Raises PerpcsError where it should be `exact` and is more than rounding in `dtype` explains.
    """
    import torch

    # Of tensors, so that NaN stays the largest.
    far = [(x - y).abs().max() for x, y in zip(expected, found, strict=True)]
    compared = Compared(
        difference=float(torch.stack(far).max()),
        largest=float(torch.stack([x.abs().max() for x in expected]).max()),
        prompts=len(far),
        dtype=dtype,
    )
    allowed = TOLERANCE[dtype] * compared.largest if exact else math.inf
    if not (math.isfinite(compared.difference) and compared.difference <= allowed):
        raise PerpcsError(
            f"what was written gives other logits than the recipe, by {compared.difference:.2g} of "
            f"{compared.largest:.3g}, which is more than rounding explains; nothing was kept",
            hint="Try --dtype float32. If it stays so, this is an error in perpcs or in the library that loads it.",
        )
    return compared


def recipe_logits(base: Base, rows: Sequence[Encoded], models: ModelsToRun) -> list[Tensor]:
    """The logits of one recipe, by the engine: [1, tokens, vocabulary] of each prompt."""
    from perpcs_cli.model.engine.lora_layer import attached
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.engine.recipe_router import RecipeRouter

    router = RecipeRouter(PieceCache(base, lambda index: models.adapters[index]), models.recipes)
    router.use([0])
    with attached(base, router, merge=models.merge):
        return list(logits(base, base.model, rows))


def logits(base: Base, run: Callable[..., Any], rows: Sequence[Encoded]) -> Iterator[Tensor]:
    """Logits [1, tokens, vocabulary] of each prompt and its answer, in float32 on the CPU."""
    import torch

    from perpcs_cli.model.engine.batching import make_batch

    for row in rows:
        with torch.inference_mode():
            yield run(**make_batch(base, [row]).inputs(), use_cache=False).logits.float().cpu()
