"""BM25 over a user's history, with exactly the scores and choices of rank_bm25's `BM25Okapi`.

Documents and queries are split at single spaces. Source of the setting: the published Per-PCs code,
`task_LoRA.py` and `train_anchor_PEFT.py`.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

K1, B, EPSILON = 1.5, 0.75, 0.25


def best_of_all(documents: Sequence[str], queries: Sequence[str], k: int) -> list[list[int]]:
    """For each query, the positions of the best `k` documents, best first."""
    if k <= 0 or not documents:
        return [[] for _ in queries]
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([document.split(" ") for document in documents], k1=K1, b=B, epsilon=EPSILON)
    positions = range(len(documents))
    return [index.get_top_n(query.split(" "), positions, n=k) for query in queries]


def best_earlier(documents: Sequence[str], queries: Sequence[str], k: int) -> list[list[int]]:
    """For query i, the positions of the best `k` of the documents before i, best first.

    The choice is that of a `BM25Okapi` built on `documents[:i]`. Raises ValueError where the lengths differ.
    """
    index = GrowingBM25()
    best = []
    for document, query in zip(documents, queries, strict=True):
        best.append(index.top(query, k))
        index.add(document)
    return best


class GrowingBM25:
    """A BM25 index to which documents are added; at any time it scores as `BM25Okapi` over all so far.

    Sums run in the order in which `BM25Okapi` adds, so that scores agree to the last bit and ties fall alike.
    """

    def __init__(self) -> None:
        self._lengths = array("q")
        self._words: dict[str, int] = {}
        self._frequency = array("q")
        """Documents with the word, by word."""
        self._places: list[array[int]] = []
        self._counts: list[array[int]] = []
        """By word: in which documents it occurs, and how often."""
        self._logs = array("d")
        """log(i + 1/2)."""

    def add(self, document: str) -> None:
        """Add a document behind the others."""
        place = len(self._lengths)
        words = document.split(" ")
        self._lengths.append(len(words))
        self._logs.append(math.log(place + 0.5))
        for word, count in Counter(words).items():
            number = self._words.setdefault(word, len(self._words))
            if number == len(self._places):
                self._frequency.append(0)
                self._places.append(array("q"))
                self._counts.append(array("q"))
            self._frequency[number] += 1
            self._places[number].append(place)
            self._counts[number].append(count)

    def top(self, query: str, k: int) -> list[int]:
        """The positions of the best `k` documents, best first; ties fall as in rank_bm25's `get_top_n`."""
        if k <= 0 or not self._lengths:
            return []
        chosen: list[int] = np.argsort(self.scores(query))[::-1][:k].tolist()
        return chosen

    def scores(self, query: str) -> Floats:
        """Scores [documents]: the sum over the query's words of idf · f (k1 + 1) / (f + norm).

        norm = k1 (1 − b + b · length / mean length), f being the word's count in the document.
        """
        size = len(self._lengths)
        total = np.zeros(size)
        known = [self._words[word] for word in query.split(" ") if word in self._words]
        if not known:
            return total
        idf = self._idf(size)
        lengths = np.frombuffer(self._lengths, np.int64)
        norm = K1 * (1 - B + B * lengths / (int(lengths.sum()) / size))
        shares: dict[int, tuple[NDArray[np.int64], Floats]] = {}
        for word in known:
            if word not in shares:
                places = np.frombuffer(self._places[word], np.int64)
                counts = np.frombuffer(self._counts[word], np.int64)
                shares[word] = places, idf[word] * (counts * (K1 + 1) / (counts + norm[places]))
            places, share = shares[word]
            total[places] += share
        return total

    def _idf(self, size: int) -> Floats:
        """Inverse document frequency [words]; a negative one becomes epsilon times the mean."""
        # log(i + 1/2) for i up to `size`, as a word may occur in every document.
        logs = np.append(np.frombuffer(self._logs, np.float64), math.log(size + 0.5))
        frequency = np.frombuffer(self._frequency, np.int64)
        idf: Floats = logs[size - frequency] - logs[frequency]
        # A running sum adds one by one, as rank_bm25 does; sum() adds in pairs and rounds differently.
        mean = np.add.accumulate(idf)[-1] / len(idf)
        idf[idf < 0] = EPSILON * mean
        return idf
