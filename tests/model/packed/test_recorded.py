"""Passes that are recorded and played again: what they say, and when they are neither."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import TARGETS, MemoryAdapter, load_base, random_pieces, random_rows
from torch import Tensor

from perpcs_cli.model.engine import decode
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.decoded_rows import Techniques
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.sampling import Sampling
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed import rows as packed_rows
from perpcs_cli.model.packed.layout import Layout
from perpcs_cli.model.packed.recorded import Recordings
from perpcs_cli.model.transfers import Upload

Counts = Counter[str]


@pytest.fixture(params=["llama", "gemma3"])
def base(request: pytest.FixtureRequest, model_dir: Callable[[str], Path]) -> Base:
    return load_base(str(model_dir(request.param)), targets=TARGETS, device="cpu", dtype="float32")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Lets passes be recorded without a GPU: playing one runs it again, into the output that it had."""
    counts: Counts = Counter()

    def record(run: Callable[[], Tensor], memory: object) -> tuple[Callable[[], object], Tensor]:
        counts["recorded"] += 1
        output = run().clone().fill_(torch.nan)

        def play() -> None:
            counts["played"] += 1
            output.copy_(run())

        return play, output

    monkeypatch.setattr(packed_rows, "can_record", lambda base: True)
    monkeypatch.setattr(packed_rows, "Recordings", partial(Recordings, record=record))
    return counts


def router(base: Base) -> RecipeRouter:
    adapters = [MemoryAdapter(random_pieces(base, seed)) for seed in range(3)]
    mixes = [{}, *({module: [(at, 0.6), (2 - at, -0.3)] for module in base.targets} for at in (0, 1, 2))]
    return RecipeRouter(PieceCache(base, adapters.__getitem__), mixes)


def answers(base: Base, rows: list[tuple[Encoded, int]], new: int = 10, places: int = 64, **how: object) -> object:
    limits = {"max_new_tokens": new, "batch_tokens": 10_000, "batch_rows": places}
    return generate(base, router(base), rows, **{**limits, **how})  # type: ignore[arg-type]


def rows_of(base: Base) -> list[tuple[Encoded, int]]:
    prompts = random_rows(base, [(9, 0), (17, 0), (12, 0), (40, 0)] * 3)
    return [(Encoded(row.key, row.prompt, []), number % 4) for number, row in enumerate(prompts)]


WAYS = [
    {},
    {"techniques": Techniques(drafts=False, prefix=False)},
    {"places": 3},
    {"merge": "factor", "places": 5, "new": 20},
    {"sampling": Sampling(temperature=0.9, top_p=0.9, seed=1)},
]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_recorded_passes_say_the_same_tokens(base, monkeypatch, counts, how):
    played = answers(base, rows_of(base), **how)
    assert counts["played"] > counts["recorded"] > 0
    monkeypatch.undo()
    assert played == answers(base, rows_of(base), **how)
    assert len(set(map(tuple, played))) > 4


def test_what_cannot_be_recorded_is_run(base, monkeypatch, counts):
    def refuse(run: object, memory: object) -> object:
        counts["tried"] += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(packed_rows, "Recordings", partial(Recordings, record=refuse))
    found = answers(base, rows_of(base))
    assert counts["tried"] == 1
    monkeypatch.undo()
    assert found == answers(base, rows_of(base))


def test_a_change_of_the_tensors_that_are_read_ends_recordings() -> None:
    """The first pass of a kind is run, the second recorded; what it reads of the upload is what the last one sent."""
    found: list[str] = []

    def record(run: Callable[[], Tensor], memory: object) -> tuple[Callable[[], object], Tensor]:
        found.append("record")
        output = run()
        return lambda: (found.append("play"), output.copy_(run())), output

    recordings = Recordings(torch.device("cpu"), record)
    expected = 0

    def go(kind: str, state: int) -> int:
        nonlocal expected
        expected += 1
        upload = Upload(torch.device("cpu"))
        sent = upload.add(torch.tensor([expected, 7]).numpy())
        words = upload.size
        upload.add(torch.zeros(expected, dtype=torch.long).numpy())
        upload.send()

        def run() -> Tensor:
            found.append("run")
            return sent.tensor[:1] * 2

        return int(recordings.run(kind, state, upload, words, run))

    for kind, state, what in [
        ("a", 1, ["run"]),
        ("a", 1, ["record", "run", "play", "run"]),
        ("b", 1, ["run"]),
        ("a", 1, ["play", "run"]),
        ("a", 2, ["run"]),
        ("a", 2, ["record", "run", "play", "run"]),
        ("b", 2, ["run"]),
    ]:
        found.clear()
        assert go(kind, state) == 2 * expected
        assert found == what


def test_rows_come_in_together(base, monkeypatch, counts):
    """Passes in which a row comes in cannot be played: there are fewer of them, and the answers are the same."""
    shapes: list[object] = []
    honest, honest_fit = packed_rows.Rows.run, packed_rows.Shape.fitting
    often = dataclasses.replace(base, stop=tuple(range(0, 400, 9)))

    def run(self: packed_rows.Rows, layout: Layout, *given: object) -> object:
        shapes.append(layout.shape)
        return honest(self, layout, *given)

    monkeypatch.setattr(packed_rows.Rows, "run", run)
    monkeypatch.setattr(packed_rows.Shape, "fitting", lambda *given: None if max(given[1]) > 4 else honest_fit(*given))
    rows = [(Encoded(str(number), [number + 10, *range(50, 70 + number % 5)], []), number % 4) for number in range(24)]
    found = {}
    for patience in (0.0, 0.5):
        monkeypatch.setattr(decode, "PATIENCE", patience)
        shapes.clear()
        answered = answers(often, rows, places=8, techniques=Techniques(drafts=False, prefix=False))
        found[patience] = answered, sum(shape is None for shape in shapes)
    assert found[0.0][0] == found[0.5][0]
    assert found[0.5][1] < found[0.0][1]
