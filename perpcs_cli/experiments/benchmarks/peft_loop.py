"""One user's prompts under many mixtures of sharers, answered three ways: by the engine, by PEFT, and not at all."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.settings import PredictSettings
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.decoded_rows import Techniques
from perpcs_cli.model.engine.drafts import Drafts
from perpcs_cli.model.engine.lora_layer import attached
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.loading.base import Base

PEFT_ROWS = 8
PREFILL_ROWS = (8, 16, 32, 64)

Outputs = list[list[int]]
"""The answer of each (candidate, prompt), candidate by candidate, as token ids without end of sequence."""


@dataclass(frozen=True)
class DecodingComparison:
    """The same work for all: each of `candidates`, one weight per adapter, answers each of `prompts`."""

    base: Base
    prompts: Sequence[Encoded]
    adapters: Sequence[Adapter]
    candidates: Sequence[Sequence[float]]
    population: int
    """Candidates that are known at a time, as in a search."""
    settings: PredictSettings

    def recipes(self) -> RecipeRouter:
        """One recipe for each candidate."""
        weights = [
            {module: list(enumerate(candidate)) for module in self.base.targets} for candidate in self.candidates
        ]
        return RecipeRouter(PieceCache(self.base, lambda index: self.adapters[index]), weights)

    def engine(self, techniques: Techniques, drafts: Drafts) -> Outputs:
        """Generation by generation, as a search runs; known at first are the prompts' own answers."""
        recipes = self.recipes()
        for row in self.prompts:
            if row.answer:
                drafts.add(row.prompt, row.answer, self.base.stop)
        outputs: Outputs = []
        for start in range(0, len(self.candidates), self.population):
            generation = range(start, min(start + self.population, len(self.candidates)))
            outputs += generate(
                self.base,
                recipes,
                [(row, candidate) for candidate in generation for row in self.prompts],
                max_new_tokens=self.settings.max_new_tokens,
                batch_tokens=self.settings.batch_tokens,
                batch_rows=self.settings.batch_rows,
                drafts=drafts,
                techniques=techniques,
            )
        return outputs

    def prefill_rows(self) -> int:
        """The batch size in which prompts are processed fastest, measured on some of them."""
        speeds = {}
        for size in PREFILL_ROWS:
            rows = self._rows()[:size]
            start = time.perf_counter()
            self._prefill(rows, size)
            speeds[size] = len(rows) / (time.perf_counter() - start)
        return max(speeds, key=lambda size: speeds[size])

    def prefill(self, size: int) -> None:
        """One pass over every prompt for every candidate, in batches of `size` rows of similar length."""
        self._prefill(self._rows(), size)

    def _rows(self) -> list[tuple[Encoded, int]]:
        rows = [(row, candidate) for candidate in range(len(self.candidates)) for row in self.prompts]
        return sorted(rows, key=lambda row: -len(row[0].prompt))

    @torch.inference_mode()
    def _prefill(self, rows: Sequence[tuple[Encoded, int]], size: int) -> None:
        recipes = self.recipes()
        with attached(self.base, recipes):
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                recipes.use([candidate for _, candidate in some])
                batch = make_batch(self.base, [Encoded(row.key, row.prompt, []) for row, _ in some])
                self.base.model(**batch.inputs(), use_cache=False, logits_to_keep=1)
        self.base.wait()

    @torch.inference_mode()
    def peft(self) -> Outputs:
        """For each candidate PEFT's exact merge of the adapters, then transformers' greedy decoding, 8 rows a batch."""
        outputs: Outputs = []
        with warnings.catch_warnings(), _with_peft(self.base, self.adapters) as model:
            names = [f"s{index}" for index in range(len(self.adapters))]
            for candidate in self.candidates:
                model.add_weighted_adapter(names, list(candidate), "mix", combination_type="cat")
                model.set_adapter("mix")
                # The new adapter's dropout would be active.
                model.eval()
                for start in range(0, len(self.prompts), PEFT_ROWS):
                    rows = self.prompts[start : start + PEFT_ROWS]
                    batch = make_batch(self.base, [Encoded(row.key, row.prompt, []) for row in rows])
                    found = model.generate(
                        input_ids=batch.ids,
                        attention_mask=batch.mask,
                        do_sample=False,
                        max_new_tokens=self.settings.max_new_tokens,
                        eos_token_id=list(self.base.stop),
                        pad_token_id=self.base.pad,
                    )
                    outputs += [self._until_stop(row) for row in found[:, batch.ids.shape[1] :].tolist()]
                model.set_adapter("s0")
                model.delete_adapter("mix")
        return outputs

    def _until_stop(self, tokens: list[int]) -> list[int]:
        return tokens[: next((i for i, token in enumerate(tokens) if token in self.base.stop), len(tokens))]


@contextmanager
def _with_peft(base: Base, adapters: Sequence[Adapter]) -> Iterator[Any]:
    """The base as a PEFT model with the adapters s0, s1, …; the base is as it was afterwards."""
    from peft import PeftModel

    # PEFT asks transformers for what it will call otherwise.
    warnings.simplefilter("ignore", FutureWarning)
    model = PeftModel.from_pretrained(base.model, adapters[0].path, adapter_name="s0")
    try:
        for index, adapter in enumerate(adapters[1:], 1):
            model.load_adapter(adapter.path, adapter_name=f"s{index}")
        yield model
    finally:
        model.unload()
