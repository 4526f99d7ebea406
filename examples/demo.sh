#!/usr/bin/env bash
# The Per-PCs path on a synthetic data set whose users have planted habits: examples/demo.sh [OUT]
set -euo pipefail
out=${1:-demo-run}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
[ -e "$out/synthetic.jsonl" ] || perpcs synth --users 32 --history 12 --queries 4 --out "$out/synthetic.jsonl"
export TARGETS=4 SHARERS=8 MIN_HISTORY=1
export ADAPT="--plain --source queries --batch-size 8 --epochs 2 --lr 2e-3"
export TRAIN="--plain --batch-size 4 --epochs 2 --lr 2e-3"
export GATE="--plain --batch-size 4 --steps 4 --lr 1e-3"
export ASSEMBLE="--plain"
"$here/per_pcs.sh" "$out/synthetic.jsonl" news_headline "$out"
