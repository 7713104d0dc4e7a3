"""Every operator of the joiner's job has a uid, under which a changed job finds its state again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rillet.schemas import dump_spec
from tests.joiner.support import SPEC

pytestmark = pytest.mark.integration  # without a broker, but with Java

#: names of what SQL and PyFlink make between the operators of ours; none of it keeps state
STATELESS = r"Calc\[\d+\]|SinkConversion\[\d+\]|Map|end of time"
STATELESS_KINDS = ("CodeGenOperatorFactory", "SimpleOperatorFactory", "TimestampsAndWatermarksOperatorFactory")
#: a generator of random numbers, which keeps none
NOTHING = r"Source: nothing\[\d+\]"
PARALLELISM = 3
CONVERTED = """
[sources.features]
format = "json"
request_id = "page_id"
time = "at"
time_unit = "ms"
items = "articles"
impression_id = "id"
[sources.actions]
format = "json"
request_id = "page_id"
impression_id = "article"
time = "at"
time_unit = "ms"
action = "type"
"""


def operators(folder: Path, sources: str = "") -> dict[str, tuple[str, str]]:
    """Uid to name and kind."""
    (folder / "spec.toml").write_text(dump_spec(SPEC))
    (folder / "rillet.toml").write_text(f'spec = "spec.toml"\n{sources}[flink]\nparallelism = {PARALLELISM}\n')
    command = [sys.executable, "-m", "tests.jobs.joiner_graph", str(folder / "rillet.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(uid for _, uid, _, _ in found), found
    assert len({uid for _, uid, _, _ in found}) == len(found)
    # The stream without records does not grow with the job: each task of it would take network buffers.
    alone = {name for name, _, _, parallelism in found if parallelism == 1}
    assert "end of time" in alone
    assert [name for name in alone if not re.fullmatch(STATELESS, name)] == [
        n for n in alone if re.fullmatch(NOTHING, n)
    ]
    assert {parallelism for *_, parallelism in found} == {1, PARALLELISM}
    return {uid: (name, kind) for name, uid, kind, _ in found}


def test_what_keeps_state_is_found_again_whatever_else_is_in_the_job(tmp_path: Path) -> None:
    native, converted = operators(tmp_path), operators(tmp_path, CONVERTED)
    kept = {uid for uid in native if not uid.startswith("stateless-")}
    named = {re.sub("^join-[0-9a-f]{16}$", "join", uid) for uid in kept}
    assert named == {
        *("read-features-F", "read-actions-A", "join", "examples", "dead-letters"),
        *("Sink Committer: examples", "Sink Committer: dead-letters"),
    }
    assert {uid for uid in converted if not uid.startswith("stateless-")} == kept | {
        "convert-features",
        "convert-actions",
    }
    for found in (native, converted):
        for uid, (name, kind) in found.items():
            if uid.startswith("stateless-"):
                assert re.fullmatch(f"{STATELESS}|{NOTHING}", name), name
                if not re.fullmatch(NOTHING, name):
                    assert kind in STATELESS_KINDS
