#!/usr/bin/env bash
# Stops the joiner that submit-joiner.sh has submitted, with a savepoint where the next start looks for it: `flink stop` alone
# puts it where the cluster's configuration says, and the next start would refuse to go on without it.
#
#   stop-joiner.sh RUNS_FOLDER [--drain]
#
# --drain closes every window first: see docs/operations/joiner.md.
set -euo pipefail

runs=$1
case ${2:-} in
  "") kind=stopped ;;
  --drain) kind=drained ;;
  *) echo "$2: unknown, there is --drain alone" >&2; exit 2 ;;
esac

shopt -s nullglob
folders=("$runs"/[0-9]*/)
if [[ ${#folders[@]} == 0 ]]; then
  echo "$runs: no joiner was started with this folder" >&2
  exit 2
fi
run=${folders[-1]}
jobs=("$run"checkpoints/*/)
if [[ ${#jobs[@]} == 0 ]]; then
  echo "${run}: this run has not begun yet; flink cancel ends it" >&2
  exit 2
fi
job=$(basename "${jobs[-1]}")
exec flink stop ${2:+"$2"} --savepointPath "$run$kind" "$job"
