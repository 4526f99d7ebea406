"""A look at a model before it works: whether rows that share a packed pass say what each of them says alone."""

from __future__ import annotations

import torch

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.packed.rows import Rows, not_finite

TEXTS = ("Two rows lie side by side in one line of tokens.", "Does the second know of the first?")
LONGEST = 16
"""Tokens of a text that are used: a layer that looks or remembers at all does so among these."""
ROUNDING = {torch.float32: 1e-3}
"""How far logits may be from those of the row alone, as a share of their spread; 0.05 in the smaller number types.

What leaks from row to row was 0.06 and more in every architecture that was tried.
"""


def check_packed(base: Base) -> None:
    """Raise PerpcsError where the model cannot run packed passes, or says other things in them.

    It is the model that decides, whatever its configuration says: an architecture that nobody has thought of is caught.
    """
    rows = [base.tokenizer(text)["input_ids"][:LONGEST] for text in TEXTS]
    name = type(base.model).__name__
    hint = "Use a model whose layers all have full or sliding-window attention."
    try:
        with torch.inference_mode():
            alone = [
                base.model(input_ids=torch.tensor([row], device=base.device), use_cache=False).logits[0] for row in rows
            ]
        with packed(base):
            cache = Rows(base, len(rows), max(map(len, rows)))
            together = cache.logits(cache.plan(range(len(rows)), [0] * len(rows), rows, [len(row) for row in rows]))
    except (PerpcsError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # What an unknown architecture makes of arguments that it does not expect.
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise PerpcsError(f"{name} cannot run packed passes: {said}", hint=hint) from None
    expected, found = torch.cat(alone).float(), together.float()
    if not bool(expected.isfinite().all()):
        raise not_finite()
    if not bool((found - expected).std() <= ROUNDING.get(base.dtype, 0.05) * expected.std()):
        raise PerpcsError(
            f"{name} says other things when rows share a pass: it is more than plain attention", hint=hint
        )
