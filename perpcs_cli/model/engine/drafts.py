"""Drafts: answers that are known for a prompt, as guesses of what the model will say next.

A guess is verified in the pass that would have produced its first token anyway; it changes how long decoding takes,
never what comes out. What it costs and what it may save is weighed before it is fed: see `worth` and `Drafts.plan`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

FIXED_COST = {"cuda": 512, "cpu": 32}
"""What a pass costs beside its tokens, in tokens: reading the weights, launching kernels. Rough is good enough."""
FIXED_COST_MATRIX_UNITS = 128
"""The same on a processor that computes in bfloat16."""
DECAY = 0.8
"""What an answer's weight is multiplied by whenever another answer to its prompt is added."""
CONTEXT = (4, 3, 2)
"""Where no known answer begins as this one: so many last tokens are looked for inside the answers and the prompt."""
ANSWERS = 64
"""Answers to a prompt that are remembered at most."""
KEPT_TOKENS = 1 << 18
"""Tokens of prompts and answers that are remembered at most, at a few hundred bytes each."""
FORGET = 256
"""A statistic that is so old is halved, as a search goes on and its candidates grow alike."""


def fixed_cost(device: torch.device, dtype: torch.dtype) -> int:
    """The fixed cost of a pass, in tokens. A constant, not a measurement: the same run makes the same passes."""
    if device.type == "cpu" and dtype != torch.float32:
        return FIXED_COST_MATRIX_UNITS
    return FIXED_COST.get(device.type, FIXED_COST["cuda"])


def worth(rows: int, fixed: int) -> float:
    """The least chance of acceptance with which a drafted token saves more than it costs.

    A pass of `rows` rows costs fixed + rows, so a row's next token costs (fixed + rows) / rows; verifying it
    in a pass that runs anyway costs 1.
    """
    return rows / (rows + fixed)


Tokens = tuple[int, ...]
Path = tuple[Tokens, int, float]
"""(known tokens, place of the next one, weight)."""
Source = tuple[str, int]
"""Where a guess comes from, (how it was found, its share of the votes in quarters): guesses alike are judged alike."""


class Known:
    """What is known for one prompt: answers with their weights, newest last, and where each phrase occurs."""

    def __init__(self, prompt: Tokens) -> None:
        self.prompt = prompt
        self.answers: dict[Tokens, float] = {}
        self.in_answers: dict[Tokens, list[tuple[Tokens, int]]] = defaultdict(list)
        """The last tokens of a context → [(answer, place of the token after them)]."""

    @cached_property
    def in_prompt(self) -> dict[Tokens, list[tuple[Tokens, int]]]:
        """The same of the prompt."""
        places: dict[Tokens, list[tuple[Tokens, int]]] = defaultdict(list)
        _index(self.prompt, places)
        return places

    @property
    def size(self) -> int:
        """Tokens that are kept."""
        return len(self.prompt) + sum(map(len, self.answers))

    def add(self, answer: Tokens) -> None:
        """Note an answer; of too many, the older half is forgotten, whose weights are next to nothing."""
        for other in self.answers:
            self.answers[other] *= DECAY
        if answer not in self.answers:
            _index(answer, self.in_answers)
        self.answers[answer] = self.answers.pop(answer, 0.0) + 1.0
        if len(self.answers) > ANSWERS:
            self.answers = dict(list(self.answers.items())[ANSWERS // 2 :])
            self.in_answers.clear()
            for other in self.answers:
                _index(other, self.in_answers)

    def paths(self, output: Sequence[int]) -> tuple[str, list[Path]]:
        """(how they were found, the ways in which an answer that begins with `output` may go on)."""
        size = len(output)
        if self.answers:
            whole = tuple(output)
            if found := [(answer, size, weight) for answer, weight in self.answers.items() if answer[:size] == whole]:
                return "answer", found
        for length in CONTEXT:
            if length <= size:
                last = tuple(output[-length:])
                if places := self.in_answers.get(last):
                    return f"phrase {length}", [(answer, place, self.answers[answer]) for answer, place in places]
                if places := self.in_prompt.get(last):
                    return f"prompt {length}", [(prompt, place, 1.0) for prompt, place in places]
        return "", []


def _index(sequence: Tokens, places: dict[Tokens, list[tuple[Tokens, int]]]) -> None:
    for length in CONTEXT:
        for end in range(length, len(sequence)):
            places[sequence[end - length : end]].append((sequence, end))


END = -1
"""A vote for the end of the answer."""


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next, and where each was found."""

    tokens: list[int]
    sources: list[Source]
    expected: float = 0.0
    """How many of the tokens will be right."""
    ends: bool = False
    """The answer is thought to end with the last token."""


NO_DRAFT = Draft([], [])


class Drafts:
    """Known answers by prompt, and how often guesses of each kind were right.

    One may serve many calls, as a search does that asks the same prompts again and again: answers are added as they
    are found, and newer and more frequent ones count for more.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Tokens, Known] = OrderedDict()
        self._size = 0
        self._record: dict[Source, tuple[float, float]] = {}
        self.tried = 0
        """Tokens that were proposed and verified."""
        self.right = 0
        """Those of them that were right."""
        self._lengths: Counter[int] = Counter()

    def add(self, prompt: Sequence[int], answer: Sequence[int], stop: Iterable[int] = ()) -> None:
        """Note an answer to a prompt, as token ids, up to the first that is in `stop`."""
        ends = set(stop)
        length = next((i for i, token in enumerate(answer) if token in ends), len(answer))
        known = self.of(prompt)
        before = known.size
        known.add(tuple(answer[:length]))
        self._grow(known.size - before)
        self._lengths[length] += 1

    def plan(
        self, rows: Sequence[tuple[Known, Sequence[int]]], limit: int, fixed: int, *, waiting: bool
    ) -> list[Draft]:
        """What to draft in a pass for each of `rows`, (what is known of its prompt, output so far), answers being
        `limit` tokens at most.

        Verifying a token costs what producing it costs, so drafts pay by making fewer passes, each of which costs
        `fixed` tokens beside its own. While others wait for a row's place, every row that ends early does that.
        Otherwise only the rows that would end last do: the others need no draft to end before the last one.
        """
        least = worth(len(rows), fixed)
        drafts = [self.propose(known, output, limit - len(output) - 1, least) for known, output in rows]
        if waiting:
            return drafts
        most = {done: self._left(done, limit) for done in {len(output) for _, output in rows}}
        left = [
            len(draft.tokens) + 1 if draft.ends else most[len(output)]
            for draft, (_, output) in zip(drafts, rows, strict=True)
        ]
        passes = max(tokens / (1 + draft.expected) for tokens, draft in zip(left, drafts, strict=True))
        return [draft if tokens > passes else NO_DRAFT for tokens, draft in zip(left, drafts, strict=True)]

    def propose(self, known: Known, output: Sequence[int], limit: int, least: float) -> Draft:
        """At most `limit` tokens that may follow `output`, as long as all of them are right with chance `least`."""
        kind, paths = known.paths(output)
        if not paths:
            return NO_DRAFT
        tokens: list[int] = []
        sources: list[Source] = []
        chance, expected, ends = 1.0, 0.0, False
        while paths:
            votes: dict[int, float] = defaultdict(float)
            for sequence, place, weight in paths:
                votes[sequence[place] if place < len(sequence) else END] += weight
            # The later of two that are equal: it is newer.
            token = max(reversed(votes), key=lambda t: votes[t])
            source = (kind, int(4 * votes[token] / sum(votes.values())))
            chance *= self.chance(source)
            ends = token == END
            if ends or chance < least or len(tokens) == limit:
                break
            tokens.append(token)
            sources.append(source)
            expected += chance
            paths = [(s, p + 1, w) for s, p, w in paths if p < len(s) and s[p] == token]
        return Draft(tokens, sources, expected, ends)

    def learn(self, draft: Draft, right: int) -> None:
        """Note that the first `right` tokens of a draft were what the model said, and the next was not."""
        self.tried += len(draft.tokens)
        self.right += right
        for index, source in enumerate(draft.sources[: right + 1]):
            hits, tries = self._record.get(source, (0.0, 0.0))
            hits, tries = hits + (index < right), tries + 1
            self._record[source] = (hits / 2, tries / 2) if tries >= FORGET else (hits, tries)

    def chance(self, source: Source) -> float:
        """How likely a guess is right: its share of the votes at first, then more and more what was seen."""
        kind, quarters = source
        expected = (0.3 + 0.15 * quarters) * (1.0 if kind == "answer" else 0.6)
        hits, tries = self._record.get(source, (0.0, 0.0))
        return (hits + 4 * expected) / (tries + 4)

    def _left(self, done: int, limit: int) -> float:
        """How many tokens an answer of `done` tokens will still have, by the known answers that are longer."""
        longer = {length: count for length, count in self._lengths.items() if length > done}
        if not longer:
            return limit - done
        mean = sum(length * count for length, count in longer.items()) / sum(longer.values())
        return min(mean, limit) - done

    def of(self, prompt: Sequence[int]) -> Known:
        """What is known for a prompt. Of too many prompts, those not asked for longest are forgotten."""
        key = tuple(prompt)
        if key not in self._known:
            self._known[key] = Known(key)
            self._grow(len(key))
        self._known.move_to_end(key)
        return self._known[key]

    def _grow(self, tokens: int) -> None:
        self._size += tokens
        while self._size > KEPT_TOKENS and len(self._known) > 1:
            self._size -= self._known.popitem(last=False)[1].size
