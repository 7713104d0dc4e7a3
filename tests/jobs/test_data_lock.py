"""One service of a kind per data_dir."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rillet.jobs.data_lock import hold
from rillet.jobs.errors import ServiceError


def test_a_second_holder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with hold(tmp_path, "train"), pytest.raises(ServiceError, match=rf"{tmp_path} \(pid {os.getpid()}\): stop it"):  # noqa: SIM117
        with hold(tmp_path, "train"):
            raise AssertionError("held twice")


def test_it_is_free_again_after_its_block_and_after_an_error_in_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path, "train"):
        raise ZeroDivisionError
    with hold(tmp_path, "train"):
        pass


def test_services_and_folders_do_not_exclude_each_other(tmp_path: Path) -> None:
    with hold(tmp_path / "a", "train"), hold(tmp_path / "a", "join"), hold(tmp_path / "b", "train"):
        assert (tmp_path / "a" / "locks" / "join.lock").read_text() == f"{os.getpid()}\n"


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; from rillet.jobs.data_lock import hold\n"
    code += "with hold(pathlib.Path(sys.argv[1]), 'train'): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ServiceError, match=f"pid {holder.pid}"), hold(tmp_path, "train"):
            pass
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 5
    while True:
        try:
            with hold(tmp_path, "train"):
                return
        except ServiceError:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("below", ["", "missing"])
def test_a_folder_that_cannot_be_written_to_is_one_error_that_names_it(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below
    with (
        pytest.raises(ServiceError, match=rf"data_dir {folder} cannot be written to .*uid {os.getuid()}"),
        hold(folder, "x"),
    ):
        pass
