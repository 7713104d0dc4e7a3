#!/usr/bin/env bash
# Submits the joiner to the Flink cluster, from its newest savepoint or checkpoint if there is one.
# Does nothing when the job runs already, so that it may be run again at any time.
#
#   submit-joiner.sh CONFIG [CHECKPOINT_FOLDER]
set -euo pipefail

config=$1
state=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)

if flink list --running 2>/dev/null | grep -q "rillet joiner"; then
  echo "the joiner runs already"
  exit 0
fi

newest=
if [[ -n $state && -d $state ]]; then
  # a checkpoint is complete once it has its _metadata
  newest=$(find "$state" -name _metadata -printf '%T@ %h\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
fi
echo "submitting the joiner${newest:+ from $newest}"
exec flink run --detached ${newest:+--fromSavepoint "file://$newest"} -py "$root/jobs/joiner_job.py" --config "$config"
