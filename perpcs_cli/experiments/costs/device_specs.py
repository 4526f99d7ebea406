"""How long a device takes: published figures and what part of them is reached, or what was measured here."""

from __future__ import annotations

from typing import Literal

import msgspec

ProfileName = Literal["a100-80gb", "a100-40gb", "h100-80gb", "rtx-4090", "l4"]
"""Devices with published figures."""

GIB = 1 << 30
SIZES = (24, 40, 80)
"""The memories of common GPUs, in GiB."""
RESERVE = 1.0
"""GiB that the driver, the CUDA context and the libraries' workspaces take."""
SPARE = 0.05
"""Share of the memory that the allocator loses in gaps."""
TRAIN_USE, READ_USE, BANDWIDTH_USE = 0.35, 0.40, 0.60
"""Assumed shares of the published figures that are reached: training, known tokens, and memory in decoding."""
LAUNCH_S = 0.0006
"""Assumed seconds that each layer costs in each pass beside its arithmetic, in eager mode with pieces attached."""
START_S = 20.0
"""Assumed seconds until a command has imported its libraries."""
LOAD_BYTES_S = 1e9
"""Assumed bytes of weights that are read from disk in a second."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a device reaches. Operations and bytes a second; seconds for a command's start and a layer's launch."""

    name: str
    memory: float | None
    """GiB; None where it is not the limit."""
    train: float
    """Operations a second in training."""
    read: float
    """Operations a second in passes over known tokens."""
    decode: float
    """Operations a second in passes that produce tokens."""
    bandwidth: float | None
    """Bytes a second in decoding; None where it is part of `launch`."""
    launch: float
    """Seconds that a layer costs in a pass beside its arithmetic."""
    start: float
    """Seconds until a command has its libraries."""
    load: float
    """Bytes of weights that are loaded in a second."""
    source: str


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A data sheet: memory in GiB, dense operations a second, bytes a second."""

    memory: int
    half: float
    """In bfloat16 with float32 sums."""
    single: float
    """In float32."""
    bandwidth: float


# Source: NVIDIA's data sheets of the A100 (SXM for 80 GB, PCIe for 40 GB), H100 SXM, L4 and RTX 4090; without
# sparsity.
PUBLISHED = {
    "a100-80gb": Published(memory=80, half=312e12, single=19.5e12, bandwidth=2.039e12),
    "a100-40gb": Published(memory=40, half=312e12, single=19.5e12, bandwidth=1.555e12),
    "h100-80gb": Published(memory=80, half=989e12, single=67e12, bandwidth=3.35e12),
    "rtx-4090": Published(memory=24, half=165e12, single=82.6e12, bandwidth=1.008e12),
    "l4": Published(memory=24, half=121e12, single=30.3e12, bandwidth=0.3e12),
}


def published_device(name: str, dtype: str) -> Device:
    """A GPU by its data sheet, with the assumed shares of it."""
    sheet = PUBLISHED[name]
    peak = sheet.single if dtype == "float32" else sheet.half
    return Device(
        name=name,
        memory=sheet.memory,
        train=TRAIN_USE * peak,
        read=READ_USE * peak,
        decode=READ_USE * peak,
        bandwidth=BANDWIDTH_USE * sheet.bandwidth,
        launch=LAUNCH_S,
        start=START_S,
        load=LOAD_BYTES_S,
        source=(
            f"{peak / 1e12:g} TFLOP/s of the data sheet, of which training reaches {TRAIN_USE:.0%} and known tokens "
            f"{READ_USE:.0%}; {sheet.bandwidth / 1e9:g} GB/s, of which decoding reaches {BANDWIDTH_USE:.0%}; "
            f"{1000 * LAUNCH_S:g} ms a layer and pass; {START_S:g} s a command and {LOAD_BYTES_S / 1e9:g} GB/s to load"
        ),
    )


def fits(peak: float, memory: float) -> bool:
    """Whether a peak of so many bytes fits a device of so many GiB."""
    return peak / GIB + RESERVE <= memory * (1 - SPARE)
