#!/usr/bin/env bash
# On a machine with a CUDA GPU, with perpcs, pytest and pytest-xdist installed and nothing to download:
# the tests marked cuda, which compare every part of the engine with the CPU, then tokens per second at the shapes of
# Llama 2 7B against the device's own limits. It takes a few minutes; flags are those of `perpcs bench device`.
#
#   bash examples/gpu.sh              # a table
#   bash examples/gpu.sh --json       # as JSON, which is all of stdout
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pytest -m cuda -rs >&2
flags=$*
# shellcheck disable=SC2086  # They are words.
perpcs bench device --device cuda --dtype bfloat16 $flags
