#!/usr/bin/env bash
# Stops the joiner that submit-joiner.sh has submitted, with a savepoint where the next start looks for it: `flink stop` alone
# puts it where the cluster's configuration says, and the next start would refuse to go on without it. Does nothing when it is
# stopped already, so that it may be run again at any time.
#
#   stop-joiner.sh RUNS_FOLDER [--drain]
#
# --drain closes every window first: see docs/operations/joiner.md.
set -euo pipefail

case ${2:-} in
  "") kind=stopped ;;
  --drain) kind=drained ;;
  *) echo "$2: unknown, there is --drain alone" >&2; exit 2 ;;
esac

# Whole, since it is the JobManager that finds the path of the savepoint.
runs=$(cd "$1" 2> /dev/null && pwd -P) || runs=$1
shopt -s nullglob
newest=0
for folder in "$runs"/*/; do
  name=$(basename "$folder")
  # Numbers alone, as the joiner takes them: a copy may lie beside.
  if [[ $name =~ ^[0-9]+$ ]] && (( 10#$name > newest )); then
    newest=$((10#$name))
    run=$folder
  fi
done
if (( ! newest )); then
  echo "$runs: no joiner was started with this folder" >&2
  exit 2
fi
savepoints=("$run$kind"/*/_metadata)
job=none
for folder in "$run"checkpoints/*/; do
  job=$(basename "$folder")
done
if [[ $job == none && ${#savepoints[@]} == 0 ]]; then
  echo "${run}: this run has not begun yet; flink cancel ends it" >&2
  exit 2
fi
# Where the cluster does not answer, whether the job runs is not known.
there=$(flink list)
if ! grep -q " $job " <<< "$there"; then
  if [[ ${#savepoints[@]} == 0 ]]; then
    echo "${run}: job $job of this run is not on the cluster, and has left no savepoint in $kind" >&2
    exit 2
  fi
  echo "stopped already, with savepoint $(dirname "${savepoints[-1]}")"
  exit 0
fi
exec flink stop ${2:+"$2"} --savepointPath "$run$kind" "$job"
