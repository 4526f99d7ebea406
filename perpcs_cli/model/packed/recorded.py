"""Passes that are recorded once and played again: on a GPU a small pass takes the host longer than the device.

A 7B model's step is over a thousand kernels, which Python starts one by one; a CUDA graph starts them all at once. It
reads the addresses of its recording, so that a pass goes on as a graph while its shape and all tensors stay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.transfers import Upload

Record = Callable[[Callable[[], Tensor], object], tuple[Callable[[], object], Tensor]]
"""What a pass does, and the memory that recordings share → how it is played, and where its output is then."""


def can_record(base: Base) -> bool:
    """Whether the base's passes can be recorded: on a GPU, with weights whose kernels are torch's own."""
    return base.device.type == "cuda" and torch.cuda.is_available() and base.identity.quantize == "none"


@cache
def _stream(device: torch.device) -> Any:
    """Where passes are recorded; one for all, as each keeps room for its products."""
    return torch.cuda.Stream(device)


def record_graph(run: Callable[[], Tensor], memory: object) -> tuple[Callable[[], object], Tensor]:
    """Record what `run` starts on the GPU, which is not run by it. Raises RuntimeError for what cannot be recorded."""
    graph: Any = torch.cuda.CUDAGraph()
    stream = _stream(torch.device("cuda", torch.cuda.current_device()))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Other threads may go on reading pieces meanwhile.
        graph.capture_begin(pool=memory, capture_error_mode="thread_local")
        try:
            output = run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, output


@dataclass(frozen=True)
class _Recording:
    play: Callable[[], object]
    inputs: Tensor
    """The part of the upload, on the device, that the pass reads."""
    output: Tensor


class Recordings:
    """The passes over some buffers: each kind is run the first time, recorded the second, and played from then on."""

    def __init__(self, device: torch.device, record: Record = record_graph) -> None:
        self.record = record
        self.memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._state: Hashable = None
        self._found: dict[Hashable, _Recording | None] = {}
        self._works = True

    def run(self, kind: Hashable, state: Hashable, upload: Upload, words: int, run: Callable[[], Tensor]) -> Tensor:
        """What `run` returns, which reads the first `words` of an upload that was sent.

        `kind`: what passes are alike in; `state`: changes when any other tensor that they read is replaced. The result
        holds until the next pass. What the device cannot record is run each time.
        """
        assert upload.sent is not None
        if state != self._state:
            self._state, self._found = state, {}
        if kind not in self._found or not self._works:
            self._found[kind] = None
            return run()
        found = self._found[kind]
        if found is None:
            try:
                play, output = self.record(run, self.memory)
            except RuntimeError:
                # Too little memory for it, or a kernel that waits for the host.
                self._works, self._found = False, {}
                return run()
            found = self._found[kind] = _Recording(play, upload.sent[:words], output)
        else:
            found.inputs.copy_(upload.sent[:words])
        found.play()
        return found.output
