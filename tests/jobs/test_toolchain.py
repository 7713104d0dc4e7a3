from __future__ import annotations

from pathlib import Path

import pytest

from rillet.jobs import toolchain
from rillet.jobs.errors import ToolchainError
from rillet.jobs.toolchain import fetch_jars, find_java, find_maven


def fake_java(folder: Path, version: str) -> Path:
    command = folder / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n")
    command.chmod(0o755)
    return folder


def test_java_home_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path, "21.0.2")))
    java = find_java()
    assert (java.version, java.home) == (21, tmp_path)


@pytest.mark.parametrize(("shown", "version"), [("1.8.0_402", 8), ("11.0.22", 11)])
def test_an_old_java_is_refused_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, version: int
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path, shown)))
    with pytest.raises(ToolchainError, match=f"is Java {version}: point JAVA_HOME at a JDK 17"):
        find_java()


def test_a_wrong_java_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(ToolchainError, match=f"JAVA_HOME is {tmp_path / 'gone'}"):
        find_java()


def test_missing_tools_are_asked_for_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="no java on PATH: install a JDK 17"):
        find_java()
    with pytest.raises(ToolchainError, match="no mvn on PATH: install Maven"):
        find_maven()


def test_tools_are_found_where_each_message_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = tmp_path / "bin"
    on_path.mkdir()
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(ToolchainError, match="point it at a JDK 17"):
        find_java()
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "11.0.22")))
    with pytest.raises(ToolchainError, match="point JAVA_HOME at a JDK 17 or newer"):
        find_java()
    for version in (17, 21):
        monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / f"jdk{version}", f"{version}.0.2")))
        assert find_java().version == version
    monkeypatch.delenv("JAVA_HOME")
    with pytest.raises(ToolchainError, match=r"no java on PATH: install a JDK 17 .*, or point JAVA_HOME at one"):
        find_java()
    # Packages put links on the PATH.
    (on_path / "java").symlink_to(tmp_path / "jdk21/bin/java")
    assert (find_java().version, find_java().home) == (21, tmp_path / "jdk21")
    with pytest.raises(ToolchainError, match="no mvn on PATH: install Maven"):
        find_maven()
    (on_path / "mvn").touch(0o755)
    assert find_maven() == on_path / "mvn"


def test_jars_that_are_there_need_no_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        f"#!/bin/sh\necho called >> {calls}\n"
        'for last; do :; done; dir="${last#-Djars=}"\n'
        'mkdir -p "$dir/flink" "$dir/broker"; touch "$dir/flink/flink-sql-connector-kafka-9.jar"\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", "17.0.1")))
    monkeypatch.setattr(toolchain, "find_maven", lambda: maven)
    first = fetch_jars(tmp_path / "jars")
    again = fetch_jars(tmp_path / "jars")
    assert first.connector == again.connector == tmp_path / "jars" / "flink" / "flink-sql-connector-kafka-9.jar"
    assert calls.read_text().splitlines() == ["called"]


def test_a_failed_download_says_what_maven_said_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] Could not transfer kafka.jar'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", "17.0.1")))
    monkeypatch.setattr(toolchain, "find_maven", lambda: maven)
    for _ in range(2):
        with pytest.raises(ToolchainError, match=r"Could not transfer kafka\.jar"):
            fetch_jars(tmp_path / "jars")
