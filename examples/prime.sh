#!/usr/bin/env bash
# PriME and everything it is compared with, on real files: examples/prime.sh DATA TASK OUT
#
#   DATA  a directory or files in LaMP's or the published Per-PCs layout
#   TASK  movie_tagging, news_headline, … (see `perpcs init --help`)
#   OUT   the workspace to make, or one of examples/per_pcs.sh; run the script again to go on where it stopped
#
# Compares the base, the adapted base, PEFT retrieval, Per-PCs, PriME (each alpha) and OPPU, and as a control each
# target answered with another's recipe. The defaults fit a small model on two processor cores; see examples/per_pcs.sh
# for the settings up to Per-PCs and OPPU. With the published settings and encoder:
#   PRIME= ENCODER=DIRECTORY-OR-ID examples/prime.sh DATA TASK OUT
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
encoder=${ENCODER:-minilm}
alphas=${ALPHAS:-0,0.2,0.6,1,2}
prime=${PRIME---recent 16}
retrieve=${RETRIEVE-}
eval=${EVAL-}
"$(dirname "$0")/per_pcs.sh" "$@" >/dev/null

export PERPCS_WORKSPACE=$3
w=$PERPCS_WORKSPACE

. "$(dirname "$0")/steps.sh"
[ "$encoder" != minilm ] || perpcs model fetch minilm --quiet >&2
step embed perpcs embed --encoder "$encoder"
step retrieve perpcs retrieve $retrieve
step prime perpcs prime --alpha "$alphas" --pareto "$w/pareto.json" $prime
step predict-retrieve perpcs predict --recipes "$w/recipes-retrieve" --out "$w/predictions/peft-retrieval.jsonl"
models=(adapted base peft-retrieval per-pcs)
for recipes in "$w"/recipes-prime*; do
  name=$(basename "$recipes")
  step "predict-${name#recipes-}" perpcs predict --recipes "$recipes" --out "$w/predictions/${name#recipes-}.jsonl"
  models+=("${name#recipes-}")
done
models+=(oppu)
searched=("$w"/recipes-prime*)
for pair in "per-pcs recipes" "${models[4]} $(basename "${searched[0]}")"; do
  read -r name recipes <<<"$pair"
  step "predict-$name-of-another" perpcs predict --recipes "$w/$recipes" --swap --out "$w/predictions/$name-of-another.jsonl"
  models+=("$name-of-another")
done
cd "$w/predictions"
perpcs eval "${models[@]/%/.jsonl}" --workspace .. $eval --out ../metrics/eval-prime.json --force
{ echo; echo "seconds per step:"; cat ../seconds.tsv; } >&2
