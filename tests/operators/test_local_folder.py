"""A killed task's local files are deleted by the next task on the machine, and those of living tasks by nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rillet.operators.local_folder import LocalFolder

HOLD = """
import sys
from pathlib import Path
from rillet.operators.local_folder import LocalFolder
folder = LocalFolder(Path(sys.argv[1])).path
(folder / "disk").mkdir()
print(folder, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_has_left_is_deleted_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        own, beside = LocalFolder(tmp_path), LocalFolder(tmp_path)
        assert (held / "disk").is_dir()
        process.kill()
        process.wait(10)
    other = LocalFolder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own.path, beside.path, other.path])
    for folder in (own, beside, other):
        folder.close()
    assert not list(tmp_path.iterdir())


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rillet-joiner-mine").mkdir()
    (tmp_path / "else").mkdir()
    LocalFolder(tmp_path / "deep" / "er").close()
    LocalFolder(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"rillet-joiner-mine", "else", "deep"}
