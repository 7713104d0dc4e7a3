"""A tree's CPU time has that of its children, ended ones too, and nothing of it outlives the measurement."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from rillet.benchmarks.errors import BenchError
from rillet.benchmarks.join.process_tree import ProcessTree

PARENT = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"


def tree_of(code: str, log: Path) -> ProcessTree:
    return ProcessTree([sys.executable, "-S", "-c", PARENT, code], dict(os.environ), log)


def test_children_are_ended_with_their_parent(tmp_path: Path) -> None:
    with tree_of("import time; print('here', flush=True); time.sleep(60)", tmp_path / "log") as tree:
        while "here" not in (tmp_path / "log").read_text():
            assert tree.sample()
        tree.sample()
        children = psutil.Process(tree._root.pid).children(recursive=True)
    assert len(children) == 1
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert tree.usage.peak_rss_bytes > 0
    cpu_s = [sample.cpu_s for sample in tree.usage.samples]
    assert cpu_s == sorted(cpu_s)


def test_a_command_that_fails_is_told_with_the_end_of_what_it_said(tmp_path: Path) -> None:
    with (
        tree_of("raise SystemExit('no broker')", tmp_path / "log") as tree,
        pytest.raises(BenchError, match=r"(?s)ended with status 1: see .*log.*no broker"),
    ):
        tree.wait(30, lambda seconds, sample: None)


def test_a_command_that_takes_too_long_is_told(tmp_path: Path) -> None:
    with (
        tree_of("import time; time.sleep(60)", tmp_path / "log") as tree,
        pytest.raises(BenchError, match=r"has not ended after 0 s \(--timeout\)"),
    ):
        tree.wait(0.0, lambda seconds, sample: None)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no-such-command cannot be started: No such file or directory"):
        ProcessTree(["no-such-command"], {}, tmp_path / "log")


def test_the_time_of_javas_compilers_is_told_apart(tmp_path: Path) -> None:
    """A thread of that name in a process of that name stands in for them."""
    spin = "import time; end = time.process_time() + 0.15\nwhile time.process_time() < end: pass"
    code = f"""
import pathlib, threading, time
pathlib.Path("/proc/self/comm").write_text("java")
def work():
    pathlib.Path(f"/proc/self/task/{{threading.get_native_id()}}/comm").write_text("C2 CompilerThre")
    exec({spin!r})
    print("here", flush=True)
    time.sleep(60)
threading.Thread(target=work, daemon=True).start()
time.sleep(60)
"""
    with ProcessTree([sys.executable, "-S", "-c", code], dict(os.environ), tmp_path / "log") as tree:
        while "here" not in (tmp_path / "log").read_text():
            assert tree.sample()
        tree.sample()
    last = tree.usage.samples[-1]
    assert 0.1 <= last.compiling_s <= 0.3
    assert 0 <= last.cpu_s < 0.1
