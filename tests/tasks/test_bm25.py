"""BM25: our growing index against rank_bm25, rebuilt for each prefix."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from perpcs_cli.tasks.bm25 import GrowingBM25, best_earlier, best_of_all

# Few words, so that there are ties, repeats, and words that occur in most documents (negative idf).
TEXT = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "ä", ""]), max_size=8).map(" ".join)
TEXTS = st.lists(TEXT, min_size=1, max_size=20)


@settings(deadline=None)
@given(documents=TEXTS, query=TEXT)
def test_scores_equal_rank_bm25_to_the_last_bit_at_every_size(documents: list[str], query: str) -> None:
    index = GrowingBM25()
    for size, document in enumerate(documents, start=1):
        index.add(document)
        expected = BM25Okapi([text.split(" ") for text in documents[:size]]).get_scores(query.split(" "))
        np.testing.assert_array_equal(index.scores(query), expected)


@settings(deadline=None)
@given(documents=TEXTS, k=st.integers(0, 4), data=st.data())
def test_the_best_earlier_are_those_of_an_index_of_the_earlier(
    documents: list[str], k: int, data: st.DataObject
) -> None:
    size = len(documents)
    queries = data.draw(st.lists(TEXT, min_size=size, max_size=size))
    best = best_earlier(documents, queries, k)

    assert best[0] == []
    for place in range(1, size):
        index = BM25Okapi([text.split(" ") for text in documents[:place]])
        assert best[place] == index.get_top_n(queries[place].split(" "), range(place), n=k)


@settings(deadline=None)
@given(documents=TEXTS, other=TEXTS, k=st.integers(1, 4))
def test_no_later_document_is_chosen_or_matters(documents: list[str], other: list[str], k: int) -> None:
    best = best_earlier(documents, documents, k)
    longer = best_earlier(documents + other, documents + other, k)

    assert all(chosen < place for place, places in enumerate(best) for chosen in places)
    assert longer[: len(documents)] == best


def test_the_whole_history_is_searched_for_a_query() -> None:
    documents = ["red apple", "green pear", "red pear tree"]

    assert best_of_all(documents, ["green", "apple"], 1) == [[1], [0]]
    assert [len(places) for places in best_of_all(documents, ["red", "pear"], 5)] == [3, 3]


def test_nothing_is_found_in_nothing() -> None:
    assert best_of_all([], ["green"], 2) == [[]]
    assert best_of_all(["green"], ["green"], 0) == [[]]
    assert GrowingBM25().top("green", 2) == []
    assert GrowingBM25().scores("green").tolist() == []


def test_a_long_history_takes_seconds() -> None:
    random = np.random.default_rng(0)
    documents = [" ".join(f"w{n}" for n in random.zipf(1.5, size=80)) for _ in range(2000)]
    start = time.monotonic()
    best_earlier(documents, documents, 1)

    # rank_bm25, rebuilt 2,000 times, takes minutes; this takes one second or two.
    assert time.monotonic() - start < 30
