# Read by the other examples, with PERPCS_WORKSPACE set.
# A step is one command; finished steps are left alone and every step's time is noted.
step() {
  local name=$1 from=$SECONDS
  shift
  [ -e "$PERPCS_WORKSPACE/.done.$name" ] && return
  echo "== $name" >&2
  "$@" >&2
  touch "$PERPCS_WORKSPACE/.done.$name"
  printf '%s\t%s\n' "$name" $((SECONDS - from)) >>"$PERPCS_WORKSPACE/seconds.tsv"
}
