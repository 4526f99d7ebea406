"""Drawn answers: the published distribution, by seed, user and query, whatever makes decoding fast."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from helpers import MemoryAdapter, merged, random_pieces, random_rows

from perpcs_cli.artifacts.settings import PredictSettings, ProfileSettings
from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine import sampling as room
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.decoded_rows import Techniques
from perpcs_cli.model.engine.drafts import Drafts
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.sampling import Sampling, gumbel, sampling_of, state_at, truncated

NEW = 10
DRAWN = Sampling(temperature=0.4, top_p=0.9, seed=3)
MASK = (1 << 64) - 1


def splitmix(state: int, count: int) -> list[int]:
    """The first numbers of a SplitMix64 stream (Steele et al., 2014), with Python's integers."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def naive(logits: np.ndarray, temperature: float, top_p: float, top_k: int | None = None) -> np.ndarray:
    """The probabilities of top-k, then top-p in float64, as the published codes truncate them."""
    chances = np.exp((logits - logits.max()) / temperature)
    chances[np.argsort(-chances, kind="stable")[top_k or len(chances) :]] = 0
    chances /= chances.sum()
    kept, total = np.zeros_like(chances), 0.0
    for place in np.argsort(-chances, kind="stable"):
        if total > top_p:
            break
        kept[place] = chances[place]
        total += chances[place]
    return kept / kept.sum()


def test_the_noise_is_a_stream_of_splitmix64() -> None:
    assert splitmix(1234567, 2) == [6457827717110365317, 3203168211198807973]
    for state in (0, 1234567, (1 << 60) - 1):
        uniform = [((number >> 41) + 0.5) / 2**23 for number in splitmix(state, 50)]
        expected = [-math.log(-math.log(one)) for one in uniform]
        assert gumbel(torch.tensor([5, state]), 50)[1].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_noise_is_gumbels() -> None:
    drawn = gumbel(torch.tensor([state_at(7, place) for place in range(200)]), 500)
    assert drawn.isfinite().all()
    assert float(drawn.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(drawn.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.0, 1.0, None),
        (1.0, 0.9, None),
        (0.5, 0.5, None),
        (2.0, 0.05, None),
        (1e-4, 0.9, None),
        (1.0, 1.0, 3),
        (1.0, 0.8, 4),
        (1.0, 0.9, 50),
    ],
)
def test_what_is_drawn_follows_the_truncated_softmax(temperature: float, top_p: float, top_k: int | None) -> None:
    logits = np.array([0.3, 2.0, 1.5, -1.0, 2.0, 0.0, 1.2, -3.0])
    expected = naive(logits, temperature, top_p, top_k)
    scores = truncated(torch.tensor(logits)[None], temperature, top_p, top_k)[0]
    assert scores.softmax(0).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    count = 20_000
    drawn = Sampling(temperature, top_p, 0, top_k).draw(
        torch.tensor(logits).expand(count, -1), torch.tensor([state_at(11, place) for place in range(count)])
    )
    shares = torch.bincount(drawn, minlength=len(logits)).double() / count
    assert (shares[torch.tensor(expected) == 0] == 0).all()
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.015)


def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    states = torch.tensor([state_at(1, place) for place in range(30)])
    whole = DRAWN.draw(logits, states)
    monkeypatch.setattr(room, "AT_A_TIME", 100)
    assert torch.equal(DRAWN.draw(logits, states), whole)


def test_no_temperature_no_drawing() -> None:
    settings = PredictSettings(max_new_tokens=1)
    assert sampling_of(settings, 3) is None
    assert sampling_of(PredictSettings(max_new_tokens=1, temperature=0.4, top_p=0.9), 3) == DRAWN
    assert sampling_of(ProfileSettings(), 3) is None
    assert sampling_of(ProfileSettings(temperature=0.6, top_k=10), 3) == Sampling(0.6, 1.0, 3, 10)


@pytest.fixture
def endless(tiny):
    return dataclasses.replace(tiny, stop=(-1,))


def rows_of(base):
    """Queries of two users, prompts with a common beginning and without; two ask the very same of the same recipe."""
    start, *tails, alone = random_rows(base, [(24, 0), (5, 0), (3, 0), (17, 0)])
    prompts = [start.prompt + tail.prompt for tail in tails] + [alone.prompt, start.prompt, alone.prompt, alone.prompt]
    whose = ["a", "a", "a", "b", "b", "b"]
    rows = [Encoded(f"q{n}", prompt, [], who=who) for n, (prompt, who) in enumerate(zip(prompts, whose, strict=True))]
    return list(zip(rows, [0, 1, 1, 1, 1, 1], strict=True))


def pieces_of(base):
    return [random_pieces(base, seed) for seed in range(2)]


def mixes(base):
    return [{}, {module: [(0, 0.6), (1, 0.3)] for module in base.targets}]


def ours(base, rows, *, batch_rows=64, sampling=DRAWN, **options):
    adapters = [MemoryAdapter(pieces) for pieces in pieces_of(base)]
    recipes = RecipeRouter(PieceCache(base, lambda index: adapters[index]), mixes(base))
    sizes = {"max_new_tokens": NEW, "batch_tokens": 10_000, "batch_rows": batch_rows}
    return generate(base, recipes, rows, sampling=sampling, **sizes, **options)


def theirs(base, rows):
    """Each row alone, token by token, in a copy of the model with the recipe's weights."""
    outputs = []
    for row, recipe in rows:
        model = merged(base, pieces_of(base), mixes(base)[recipe], "product").model
        tokens: list[int] = []
        for place in range(NEW):
            with torch.inference_mode():
                logits = model(torch.tensor([row.prompt + tokens])).logits[0, -1]
            states = torch.tensor([state_at(DRAWN.stream(row), place)])
            chances = torch.tensor(naive(logits.double().numpy(), DRAWN.temperature, DRAWN.top_p))
            tokens.append(int((chances.log() + gumbel(states, len(logits))[0]).argmax()))
        outputs.append(tokens)
    return outputs


@pytest.fixture
def truth(endless):
    return theirs(endless, rows_of(endless))


@pytest.mark.parametrize("techniques", [Techniques(*on) for on in itertools.product([True, False], repeat=3)], ids=str)
def test_every_technique_draws_the_same(endless, truth, techniques):
    rows = rows_of(endless)
    drafts = Drafts()
    for (row, _), answer in zip(rows, truth, strict=True):
        drafts.add(row.prompt, answer[: NEW // 2])
    assert ours(endless, rows, techniques=techniques, drafts=drafts) == truth
    assert not techniques.drafts or drafts.right > NEW


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 64])
def test_any_batch_draws_the_same(endless, truth, batch_rows):
    rows = rows_of(endless)
    assert ours(endless, rows, batch_rows=batch_rows) == truth
    order = [4, 1, 5, 0, 3, 2]
    assert ours(endless, [rows[place] for place in order], batch_rows=batch_rows) == [truth[place] for place in order]


def test_another_seed_user_or_query_draws_anew(endless, truth):
    rows = rows_of(endless)
    greedy = ours(endless, rows, sampling=None)
    # The last two ask the same, as queries of their own; greedily they are answered alike.
    assert greedy[-1] == greedy[-2] and truth[-1] != truth[-2]
    assert ours(endless, rows, sampling=dataclasses.replace(DRAWN, seed=4)) != truth
    other = [(dataclasses.replace(row, who="c"), recipe) for row, recipe in rows]
    assert all(one != before for one, before in zip(ours(endless, other), truth, strict=True))


def test_a_low_temperature_is_greedy(endless):
    rows = rows_of(endless)
    cold = dataclasses.replace(DRAWN, temperature=1e-9)
    assert ours(endless, rows, sampling=cold) == ours(endless, rows, sampling=None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite(endless, value):
    head = endless.model.lm_head
    handle = head.register_forward_hook(lambda _, inputs, out: out.index_fill(-1, torch.tensor([9]), value))
    try:
        with pytest.raises(PerpcsError, match="logits are not finite"):
            ours(endless, rows_of(endless))
    finally:
        handle.remove()
