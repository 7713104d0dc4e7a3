#!/usr/bin/env bash
# Submits the joiner to the Flink cluster. It goes on from the newest complete savepoint or checkpoint in the numbered folders
# of its runs. Does nothing when the job of this folder runs already, so that it may be run again at any time. stop-joiner.sh stops it.
#
#   submit-joiner.sh CONFIG RUNS_FOLDER
set -euo pipefail

config=$1
runs=$(realpath -m "$2")
root=$(cd "$(dirname "$0")/.." && pwd)

# Where the cluster does not answer, whether the job runs is not known: nothing is submitted.
# A joiner of another folder is another one. Of a job that names none, whose it is is not known.
# Not those alone that run: with the adaptive scheduler a job that waits for TaskManagers counts as scheduled.
there=$(flink list)
if grep -qF -e " : rillet joiner $runs (" -e " : rillet joiner (" <<< "$there"; then
  echo "the joiner runs already"
  exit 0
fi
exec flink run --detached -py "$root/jobs/joiner_job.py" --config "$config" --runs "$runs"
