"""One service of a kind per data_dir."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold
from rillet.jobs.dump import run_dump
from rillet.jobs.errors import ServiceError
from rillet.jobs.train import run_train
from rillet.trainer import ModelConfig


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
        assert (tmp_path / "a" / "locks" / "join.lock").read_text().split()[0] == str(os.getpid())


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


def test_a_holder_that_nobody_has_waited_for_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.jobs.data_lock._WAIT_S", 0.0)
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as zombie, hold(tmp_path, "join"):
        assert zombie.stdout is not None
        zombie.stdout.read()
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / "locks/join.lock").write_text(f"{zombie.pid}\n")
        with pytest.raises(ServiceError, match="what it has started has not"), hold(tmp_path, "join"):
            raise AssertionError("held twice")


def test_a_process_that_has_the_number_of_a_holder_which_is_gone_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the advice would be to kill it."""
    monkeypatch.setattr("rillet.jobs.data_lock._WAIT_S", 0.0)
    with hold(tmp_path, "join"):
        (tmp_path / "locks/join.lock").write_text(f"{os.getpid()} 1\n")
        with pytest.raises(ServiceError, match="what it has started has not"), hold(tmp_path, "join"):
            raise AssertionError("held twice")


@contextmanager
def left_by_a_killed_holder(folder: Path) -> Iterator[Callable[[], None]]:
    """The lock as a process has it that was started by a service which is gone; what is yielded ends that process."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with hold(folder, "join"):
        pass
    (folder / "locks/join.lock").write_text(f"{gone.pid}\n")
    other = os.open(folder / "locks/join.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    ended = False

    def end() -> None:
        nonlocal ended
        if not ended:
            os.close(other)
        ended = True

    try:
        yield end
    finally:
        end()


def test_what_a_killed_holder_has_started_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with left_by_a_killed_holder(tmp_path) as end:

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                end()

        monkeypatch.setattr("rillet.jobs.data_lock.time.sleep", sleep)
        with hold(tmp_path, "join"):
            assert len(waits) == 3


def test_what_a_killed_holder_has_started_and_does_not_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rillet.jobs.data_lock._WAIT_S", 0.0)
    with left_by_a_killed_holder(tmp_path) as end:
        with pytest.raises(ServiceError, match=r"has ended, and what it has started has not: .*fuser .*join\.lock"):  # noqa: SIM117
            with hold(tmp_path, "join"):
                pass
        end()
        with hold(tmp_path, "join"):
            pass


def test_who_has_the_descriptor_holds_on(tmp_path: Path) -> None:
    with hold(tmp_path, "join") as lock:
        started = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        with pytest.raises(ServiceError, match="join runs already"), hold(tmp_path, "join"):
            pass
    finally:
        started.kill()
        started.wait()
    with hold(tmp_path, "join"):
        pass


@pytest.mark.parametrize("below", ["", "missing"])
def test_a_folder_that_cannot_be_written_to_is_one_error_that_names_it(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below
    with (
        pytest.raises(ServiceError, match=rf"{folder} cannot be written to .*uid {os.getuid()}"),
        hold(folder, "x"),
    ):
        pass


@pytest.mark.parametrize(("run", "lock"), [(run_train, "train-films"), (run_dump, "dump")])
def test_a_second_service_is_refused_before_it_reaches_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[RilletConfig], int], lock: str
) -> None:
    """A second trainer used to take the model from the first, which then stopped."""
    monkeypatch.setattr("rillet.jobs.signals.signal.signal", lambda *_: None)
    config = RilletConfig(spec=tmp_path / "none.toml", data_dir=tmp_path, model=ModelConfig(name="films"))
    with hold(tmp_path, lock), pytest.raises(ServiceError, match=rf"{lock} runs already .*\(pid {os.getpid()}\)"):
        run(config)
