#!/usr/bin/env bash
# Per-PCs, PriME and OPPU on a synthetic data set whose users have planted habits: examples/demo.sh [OUT]
#
# A headline has a form and an ending, and users share them in parts: some targets can only be served by a mixture.
set -euo pipefail
out=${1:-demo-run}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
[ -e "$out/synthetic.jsonl" ] || perpcs synth --count 30 --history 10 --queries 10 --out "$out/synthetic.jsonl"
export TARGETS=6 SHARERS=8 MIN_HISTORY=1
export ADAPT="--plain --source both --max-examples 48 --batch-size 8 --epochs 1 --lr 2e-3"
export TRAIN="--plain --batch-size 5 --steps 8 --lr 1e-2"
export GATE="--plain --batch-size 4 --steps 8 --lr 1e-3"
export ASSEMBLE="--plain --activations base --contrast 32"
export ALPHAS=0 PRIME="--recent 6 --budget 10"
export EVAL="--habits --answers 1"
"$here/prime.sh" "$out/synthetic.jsonl" news_headline "$out"
export PERPCS_WORKSPACE=$out
printf '\nWhat the recipes are made of: sharers, with their mean weight over the layers\n\nPer-PCs\n'
perpcs assemble $ASSEMBLE --quiet
printf '\nPriME\n'
perpcs prime --alpha "$ALPHAS" $PRIME --quiet
