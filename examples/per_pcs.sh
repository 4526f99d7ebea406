#!/usr/bin/env bash
# The complete Per-PCs path on real files: examples/per_pcs.sh DATA TASK OUT
#
#   DATA  a directory or files in LaMP's or the published Per-PCs layout
#   TASK  movie_tagging, news_headline, … (see `perpcs init --help`)
#   OUT   the workspace to make; run the script again to go on where it stopped
#
# Compares the base, the adapted base, Per-PCs and OPPU (each target's own LoRA). The defaults fit a small model on
# two processor cores; with a 7B model on a GPU, leave the settings to the published ones:
#   MODEL=meta-llama/Llama-2-7b-hf TRAIN= ADAPT= GATE= SHARERS=50 TARGETS=100 examples/per_pcs.sh DATA TASK OUT
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$1 task=$2
model=${MODEL:-smollm2-135m}
sharers=${SHARERS:-8} targets=${TARGETS:-8} min_history=${MIN_HISTORY:-6}
adapt=${ADAPT---plain --source both --max-examples 96 --batch-size 8 --epochs 2 --lr 2e-3}
train=${TRAIN---plain --recent 16 --batch-size 4 --epochs 2 --lr 1e-3}
gate=${GATE---plain --recent 16 --batch-size 4 --steps 10 --lr 1e-3}
assemble=${ASSEMBLE---plain --recent 16}

export PERPCS_WORKSPACE=$3
mkdir -p "$PERPCS_WORKSPACE"

. "$(dirname "$0")/steps.sh"
w=$PERPCS_WORKSPACE
[ "$model" != smollm2-135m ] || perpcs model fetch smollm2-135m --quiet >&2
step init perpcs init "$w" --task "$task" --model "$model"
step import perpcs import "$data" --out "$w/users.jsonl"
step split perpcs split --base-share 0.25 --targets "$targets" --min-history "$min_history"
step adapt perpcs adapt $adapt
step select perpcs select --strategy random --count "$sharers" --min-items "$min_history"
step train-sharer perpcs train-sharer $train
step gate perpcs gate $gate
step pool perpcs pool build
step assemble perpcs assemble $assemble
step oppu perpcs train-sharer --users "@$w/splits/target.txt" --out "$w/oppu" $train
step predict-base perpcs predict --base --task-adapter none --out "$w/predictions/base.jsonl"
step predict-adapted perpcs predict --base --out "$w/predictions/adapted.jsonl"
step predict-per-pcs perpcs predict --recipes "$w/recipes" --out "$w/predictions/per-pcs.jsonl"
step predict-oppu perpcs predict --own "$w/oppu" --out "$w/predictions/oppu.jsonl"
cd "$w/predictions"
perpcs eval adapted.jsonl base.jsonl per-pcs.jsonl oppu.jsonl --workspace .. --out ../metrics/eval.json --force
echo >&2
echo "seconds per step:" >&2
cat ../seconds.tsv >&2
du -b ../sharers/*/adapter_model.safetensors ../recipes/*.json | sort -n | sed -n '1p;$p' >&2
