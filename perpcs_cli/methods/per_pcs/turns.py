"""Passes that go through the layers side by side, so that what is read for a layer serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")


class _Stopped(BaseException):
    """Another one has failed."""


def in_turns(works: Sequence[Callable[[Callable[[], None]], T]]) -> list[T]:
    """What the `works` return. Each is given a function `next_stage` to call between its stages: none begins a stage
    before all have ended the one before.

    One runs at a time, each in a thread of its own, for a model's forward pass cannot be left and come back to
    otherwise. What one raises stops the others at their next stage, and is raised here.
    """
    turns = [Semaphore(0) for _ in works]
    waiting = list(range(len(works)))
    found: dict[int, T] = {}
    errors: list[BaseException] = []
    ended = Event()

    def hand_on(me: int) -> None:
        turns[waiting[(waiting.index(me) + 1) % len(waiting)]].release()
        turns[me].acquire()
        if errors:
            raise _Stopped

    def run(me: int) -> None:
        turns[me].acquire()
        try:
            if not errors:
                found[me] = works[me](lambda: hand_on(me))
        except _Stopped:
            pass
        except BaseException as error:
            errors.append(error)
        following = waiting[(waiting.index(me) + 1) % len(waiting)]
        waiting.remove(me)
        (turns[following].release if waiting else ended.set)()

    for number in range(len(works)):
        Thread(target=run, args=(number,), daemon=True).start()
    turns[0].release()
    while not ended.is_set():
        try:
            ended.wait()
        except BaseException as error:
            # Interrupted: what runs comes to the end of its stage.
            errors.append(error)
    if errors:
        raise errors[0]
    return [found[number] for number in range(len(works))]
