"""Buckets lie evenly on the subtasks of any parallelism, in Flink's own hash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rillet.operators.key_groups import KEY_GROUPS, bucket_keys, key_group, subtask_of

ROOT = Path(__file__).resolve().parents[2]
#: what Flink 2.3 gives
KNOWN = {0: 161, 1: 556, 2: 609, 5: 145, 100: 706, 1023: 328, 99999: 732}

_FLINK = """
import json, os
from rillet.jobs.toolchain import python_environment
os.environ.update(python_environment())
from pyflink.java_gateway import get_gateway
from rillet.operators.key_groups import KEY_GROUPS, bucket_keys
jvm = get_gateway().jvm
selector = jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
assign = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment
found = []
for key in bucket_keys(KEY_GROUPS):
    row = jvm.org.apache.flink.types.Row(2)
    row.setField(0, key)
    found.append(assign.assignToKeyGroup(selector.getKey(row), KEY_GROUPS))
subtasks = [assign.computeOperatorIndexForKeyGroup(KEY_GROUPS, 48, group) for group in range(KEY_GROUPS)]
print(json.dumps([found, subtasks]))
"""


def test_keys_fall_into_the_groups_that_flink_gives_them() -> None:
    assert {key: key_group(key) for key in KNOWN} == KNOWN


@pytest.mark.integration
def test_each_bucket_has_the_key_group_and_subtask_in_flink_that_it_has_here() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FLINK], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    groups, subtasks = json.loads(done.stdout.splitlines()[-1])
    assert groups == list(range(KEY_GROUPS))
    assert subtasks == [subtask_of(group, 48) for group in range(KEY_GROUPS)]


@pytest.mark.parametrize("buckets", [1, 8, 16, 100, 1_000, 1_024])
def test_each_bucket_has_a_key_and_a_group_of_its_own(buckets: int) -> None:
    keys = bucket_keys(buckets)
    assert len(keys) == len(set(map(key_group, keys))) == buckets
    assert max(keys) < 10_000


def test_subtasks_of_every_parallelism_have_nearly_the_same_number_of_buckets() -> None:
    for parallelism in range(1, 65):
        counts = Counter(subtask_of(key_group(key), parallelism) for key in bucket_keys(1_024))
        assert len(counts) == parallelism
        assert max(counts.values()) <= 1_024 // parallelism + 1


def test_few_buckets_are_spread_over_as_many_subtasks() -> None:
    for parallelism in (1, 2, 4, 8, 16):
        counts = Counter(subtask_of(key_group(key), parallelism) for key in bucket_keys(16))
        assert set(counts.values()) == {16 // parallelism}
