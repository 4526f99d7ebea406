"""The searches of several users in step: what a round of all of them asks is decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from perpcs_cli.methods.prime.engine import Engine
from perpcs_cli.methods.prime.evaluator import Decoding, Evaluator
from perpcs_cli.methods.prime.search import Choice, Generation, Search


def search_in_step(users: Sequence[tuple[Search, Evaluator]], engine: Engine) -> list[list[Choice]]:
    """Run each user's search to its end, and return its choices.

    Users' numbers in the engine are their places here. A round in which somebody's trace lacks something is decoded for
    all whom it is new to, in the order of the users; those who were told all of it before stay away. What is decoded
    together depends on the traces before the round alone: one that was stopped after some traces were written is
    decoded again as it was, and only the other traces are written.
    """
    found: dict[int, list[Choice]] = {}
    asked: dict[int, list[Generation]] = {number: next(search) for number, (search, _) in enumerate(users)}
    while asked:
        if any(users[number][1].lacks(generations) for number, generations in asked.items()):
            _decode({number: users[number][1].decoding(some) for number, some in asked.items()}, engine)
        for number in list(asked):
            search, evaluator = users[number]
            try:
                asked[number] = search.send(evaluator.trace.known)
            except StopIteration as end:
                found[number] = cast("list[Choice]", end.value)
                del asked[number]
    return [found[number] for number in range(len(users))]


def _decode(decodings: dict[int, Decoding | None], engine: Engine) -> None:
    """One round. Whose candidates race asks several times."""
    running = {number: one for number, one in decodings.items() if one is not None}
    asks = {number: next(one) for number, one in running.items()}
    while asks:
        answers, asks = engine(asks), {}
        for number, some in answers.items():
            with suppress(StopIteration):
                asks[number] = running[number].send(some)
