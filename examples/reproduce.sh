#!/usr/bin/env bash
# All experiments of both papers for one task: examples/reproduce.sh DATA TASK OUT
#
#   DATA  a directory or files in LaMP's or the published Per-PCs layout
#   TASK  movie_tagging, news_headline, … (see `perpcs init --help`)
#   OUT   the directory of the steps, results.jsonl and tables/; run the script again to go on where it stopped
#
# The grid is examples/configs/reproduce.toml, with the published settings for a 7B model on a GPU. SMALL=1 takes
# examples/configs/reproduce-small.toml instead, for a 135M model on two processor cores in about half an hour;
# CONFIG=FILE takes any other that has the methods of both papers. Prints where each table is.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$1 task=$2 out=$3
configs=$(cd "$(dirname "$0")" && pwd)/configs
config=${CONFIG:-$configs/reproduce${SMALL:+-small}.toml}
if [ -n "${SMALL:-}" ]; then
  perpcs model fetch smollm2-135m --quiet >&2
  perpcs model fetch minilm --quiet >&2
fi
perpcs sweep "$config" --data "$data" --task "$task" --out "$out" >&2
mkdir -p "$out/tables"
for like in per-pcs-1 per-pcs-2 prime-1 prime-2 prime-4 prime-9 prime-10 ablations-per-pcs ablations-prime; do
  perpcs table "$out" --like "$like" --format markdown >"$out/tables/$like.md"
  echo "$out/tables/$like.md"
done
only=(--experiment base --experiment prompts --experiment methods)
[ -z "${CONFIG:-}" ] || only=()
perpcs table "$out" "${only[@]}" --by activity --format markdown >"$out/tables/activity.md"
echo "$out/tables/activity.md"
