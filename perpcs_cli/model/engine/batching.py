"""From prompts to batches of token ids: truncation that never touches the answer, left padding, token budgets."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perpcs_cli.errors import DataError
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.loading.tokenizer_info import Reads
from perpcs_cli.model.transfers import Upload, integers
from perpcs_cli.tasks.prompts import Prompt


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt, and of its answer closed by end of sequence (empty where there is no answer)."""

    key: str
    prompt: list[int]
    answer: list[int]
    cut: int = 0
    """Tokens that were cut from the left of the prompt's article."""
    who: str = ""
    """Whose it is: for errors, and for the noise where answers are drawn."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Left-padded rows: `ids`, `mask` and `positions` are [rows, tokens]; `answers` are the answers' lengths, and
    `lengths` [rows] the same on the device."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    answers: list[int]
    lengths: Tensor
    padded: bool
    """Any row is shorter than the longest."""

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model's forward. A mask without padding is left out: attention is faster without."""
        masks = {"attention_mask": self.mask} if self.padded else {}
        return {"input_ids": self.ids, "position_ids": self.positions, **masks}

    def targets(self) -> Tensor:
        """[rows, longest answer]: the answers' tokens, left-padded with -100."""
        width = max(self.answers)
        before = torch.arange(width, device=self.ids.device)[None, :] < width - self.lengths[:, None]
        return self.ids[:, self.ids.shape[1] - width :].masked_fill(before, -100)


def tokenize(reader: Reads, prompt: Prompt) -> Encoded:
    """All tokens of a prompt and its answer, of any length.

    Prompt and answer are tokenized together; the answer begins where the tokens differ from the prompt's alone.
    """
    ids = _ids(reader, prompt)
    if prompt.answer is None:
        return Encoded(prompt.key, ids, [])
    both = _ids(reader, prompt, prompt.answer)
    shared = shared_prefix([ids, both])
    return Encoded(prompt.key, both[:shared], [*both[shared:], reader.stop[0]])


def shared_prefix(lines: Sequence[list[int]]) -> int:
    """How many tokens all lines begin with: as many as the first and the last of them in order."""
    low, high = min(lines), max(lines)
    equal, differ = 0, min(len(low), len(high)) + 1
    while differ - equal > 1:
        middle = (equal + differ) // 2
        if low[equal:middle] == high[equal:middle]:
            equal = middle
        else:
            differ = middle
    return equal


class Beginnings:
    """Prompts of some recipes in order, where those that begin alike stand together."""

    def __init__(self, prompts: Iterable[tuple[int, list[int], int]] = ()) -> None:
        """`prompts`: (recipe, prompt, place)."""
        self._of: dict[int, list[tuple[list[int], int]]] = {}
        for recipe, prompt, place in prompts:
            self._of.setdefault(recipe, []).append((prompt, place))
        for some in self._of.values():
            some.sort()

    def add(self, recipe: int, prompt: list[int], place: int) -> None:
        """Let a prompt join."""
        insort(self._of.setdefault(recipe, []), (prompt, place))

    def closest(self, recipe: int, prompt: list[int]) -> tuple[int, int]:
        """(place, tokens in common) of the recipe's prompt that begins most like this one; (0, 0) where none does.

        A prompt's last token is never common: it must be run for what comes after it.
        """
        some, line = self._of.get(recipe, []), prompt[:-1]
        at = bisect_left(some, line, key=lambda other: other[0])
        near = ((place, shared_prefix([line, other])) for other, place in some[max(0, at - 1) : at + 1])
        return max(near, key=lambda found: found[1], default=(0, 0))


def encode(reader: Reads, prompt: Prompt, max_length: int, *, reserve: int = 0) -> Encoded:
    """Tokenize a prompt and its answer, after `fit`."""
    whole = tokenize(reader, prompt)
    short = fit(reader, prompt, max_length, reserve=reserve)
    if short is prompt:
        return whole
    encoded = tokenize(reader, short)
    return replace(encoded, cut=len(whole) - len(encoded))


def fit(reader: Reads, prompt: Prompt, max_length: int, *, reserve: int = 0) -> Prompt:
    """The prompt, shortened to at most `max_length` tokens with its answer, `reserve` of them kept free.

    What is too long is cut from the left of the article, then from the left of the context; never the instruction
    or the answer. Raises DataError where even that does not fit.
    """
    limit = min(max_length, reader.context) - reserve
    size = len(tokenize(reader, prompt))
    for part in ("article", "context"):
        if size <= limit:
            break
        whole: str = getattr(prompt, part)
        spans = _as_text(reader, whole, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        drop = 0
        while size > limit and drop < len(spans):
            # Tokens at the seam can merge otherwise than before, so one cut may not be enough.
            drop += size - limit
            kept: Any = {part: whole[spans[drop][0] :] if drop < len(spans) else ""}
            prompt = replace(prompt, **kept)
            size = len(tokenize(reader, prompt))
    if size > limit:
        raise DataError(
            f"{prompt.key!r} needs {size} tokens without its article, and only {limit} fit",
            hint="Give a larger --max-length, if the model has the room.",
        )
    return prompt


def count_parts(reader: Reads, prompt: Prompt) -> dict[str, int]:
    """Tokens of a prompt's context, instruction, article and answer, which add up to all that the model sees.

    The prompt has no chat around it. A token across a seam counts for the part in which it begins, and a token
    without text for the instruction.
    """
    parts = ("context", "before", "article", "after")
    ends = [sum(len(getattr(prompt, part)) for part in parts[: i + 1]) for i in range(len(parts))]
    spans = _as_text(reader, prompt.message, return_offsets_mapping=True)["offset_mapping"]
    encoded = tokenize(reader, prompt)
    counts = dict.fromkeys(("context", "instruction", "article", "answer"), 0)
    for start, end in spans[: len(encoded.prompt)]:
        place = next((i for i, limit in enumerate(ends) if start < limit), 1) if end > start else 1
        counts[("context", "instruction", "article", "instruction")[place]] += 1
    return counts | {"answer": len(encoded.answer)}


def _as_text(reader: Reads, text: str, **how: bool) -> Any:
    """A user's text that names a special token, as `</s>`, remains text: it must not end a prompt."""
    return reader.tokenizer(text, split_special_tokens=True, **how)


def _ids(reader: Reads, prompt: Prompt, answer: str = "") -> list[int]:
    before, after = prompt.turn
    if not before and not after:
        return _open(reader, _as_text(reader, prompt.text + answer)["input_ids"])
    special = [token.content for token in reader.tokenizer.added_tokens_decoder.values() if token.special]
    if not any(name in prompt.message for name in special):
        return _open(reader, reader.tokenizer(prompt.text + answer)["input_ids"])
    return [
        *_open(reader, reader.tokenizer("")["input_ids"]),
        *reader.tokenizer(before, add_special_tokens=False)["input_ids"],
        *_as_text(reader, prompt.message, add_special_tokens=False)["input_ids"],
        *reader.tokenizer(after + answer, add_special_tokens=False)["input_ids"],
    ]


def _open(reader: Reads, ids: list[int]) -> list[int]:
    """Without the end of sequence that some tokenizers put at the end of every text."""
    return ids[:-1] if ids and ids[-1] in reader.stop else ids


def make_batch(base: Base, rows: Sequence[Encoded], upload: Upload | None = None) -> Batch:
    """Left-pad prompt and answer of some rows, so that all answers end at the last position.

    They go to the device with what is in `upload`, where it is given.
    """
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), base.pad, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row.prompt + row.answer
        mask[index, width - len(row) :] = 1
    answers = [len(row.answer) for row in rows]
    upload = upload or Upload(base.device)
    parts = [upload.add(array) for array in (ids, mask, (mask.cumsum(1) - 1).clip(min=0), integers(answers))]
    upload.send()
    sent = [part.tensor for part in parts]
    return Batch(sent[0], sent[1], sent[2], answers, sent[3], padded=any(len(row) < width for row in rows))


def by_budget(lengths: Sequence[int], tokens: int, rows: int) -> Iterator[list[int]]:
    """Indices of rows in batches of similar length: at most `rows` rows and `tokens` tokens, padding included.

    A row longer than `tokens` gets a batch of its own. The longest come first, so that memory runs out early or never.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # The first row of a batch is its longest.
        if batch and (len(batch) == rows or lengths[batch[0]] * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
