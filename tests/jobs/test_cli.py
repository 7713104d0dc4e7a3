from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from rillet.__main__ import main
from rillet.devstack.process import free_port
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import load_spec
from tests.jobs.film_spec import SPEC

COMMANDS = (
    *(
        "demo",
        "up",
        "down",
        "reset",
        "status",
        "peek",
        "audit",
        "topics",
        "join",
        "backfill",
        "train",
        "serve",
        "dump",
        "record",
        "replay",
        "backtest",
        "bench",
        "check-config",
        "spec",
    ),
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "films.spec.toml").write_text(SPEC)
    path = tmp_path / "rillet.toml"
    path.write_text(
        f'spec = "films.spec.toml"\ndata_dir = "data"\n[kafka]\nbootstrap_servers = "127.0.0.1:{free_port()}"\n'
    )
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_lists_every_command_with_what_it_does() -> None:
    result = run("--help")
    assert result.exit_code == 0
    listed = dict(line.split(maxsplit=1) for line in result.output.partition("Commands:")[2].strip().splitlines())
    assert tuple(listed) == COMMANDS
    assert all(len(text) > 20 for text in listed.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert command in ("demo", "bench", "spec") or "--config" in result.output


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = (
        "import sys, rillet.__main__; heavy = {'torch', 'pyflink', 'numba', 'confluent_kafka', 'pydantic'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["up", "down", "status", "join", "train", "serve", "check-config"])
def test_a_wrong_configuration_is_one_line_on_stderr(command: str, config: Path) -> None:
    config.write_text('spec = "x"\n[joiner]\nslize_ms = 3\n')
    result = run(command, "--config", config)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (f"rillet {command}: {config}: joiner.slize_ms: unknown key; did you mean slice_ms?\n")


def test_a_missing_configuration_says_how_to_name_one(tmp_path: Path) -> None:
    result = run("check-config", "--config", tmp_path / "gone.toml")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "--config" in result.stderr


def test_the_joiner_logs_a_line_before_it_loads_flink(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    def run_join(*_: object, **__: object) -> int:
        said.extend(caplog.messages)
        return 0

    # Stands for the module whose import takes seconds.
    monkeypatch.setitem(sys.modules, "rillet.jobs.join", SimpleNamespace(run_join=run_join))
    caplog.set_level("INFO")
    assert run("join", "--config", config).exit_code == 0
    assert said == ["rillet join starts: loading Flink"]


def test_check_config_says_what_was_understood(config: Path) -> None:
    result = run("check-config", "--config", config)
    assert result.exit_code == 0, result.stderr
    for part in ("films.spec.toml", "film", "action watch within 10 min, 0.5 of negatives", "features, actions"):
        assert part in result.stdout


def test_check_config_shows_accepted_specs_and_refuses_those_that_contradict(config: Path) -> None:
    spec = config.parent / "films.spec.toml"
    old = config.parent / "old.toml"
    old.write_text(spec.read_text().replace("600000", "60000"))
    config.write_text('also_accepts = ["old.toml"]\n' + config.read_text())
    result = run("check-config", "--config", config)
    assert result.exit_code == 0, result.stderr
    of_old = f"accepts   films, hash {load_spec(old).hash:#x}: tasks.watch.window_ms: 60000, now 600000\n"
    assert of_old in result.stdout
    old.write_text(spec.read_text().replace('name = "film"', 'name = "shop"'))
    result = run("check-config", "--config", config)
    assert result.exit_code == 2
    assert "spec, also_accepts: feature specs cannot be accepted at the same time" in result.stderr
    assert "item.film (kind id), now item.shop (kind id)" in result.stderr


def test_check_config_shows_crosses(config: Path) -> None:
    spec = config.parent / "films.spec.toml"
    year = '[[item]]\nname = "year"\nslot = 98\nkind = "id"\n'
    spec.write_text(f'{spec.read_text()}\n{year}[[cross]]\nname = "both"\nslot = 99\nslots = ["film", "year"]\n')
    result = run("check-config", "--config", config)
    assert result.exit_code == 0, result.stderr
    assert "cross     both = film x year (slot 99, at most 1)\n" in result.stdout
    assert f", of the model {load_spec(spec).model_hash:#x}\n" in result.stdout


def test_check_config_shows_histories_and_warns_of_an_action_that_no_task_asks_for(config: Path) -> None:
    spec = config.parent / "films.spec.toml"
    user = '[[context]]\nname = "user"\nslot = 1\nkind = "id"\n'
    history = 'kind = "history"\nof = "film"\nby = "user"\nmax_values = 20\n'
    seen = f'[[context]]\nname = "seen"\nslot = 2\naction = "watch"\n{history}max_age_ms = 7_200_000\n'
    liked = f'[[context]]\nname = "liked"\nslot = 3\naction = "like"\n{history}'
    spec.write_text(f"{spec.read_text()}\n{user}{seen}{liked}")
    result = run("check-config", "--config", config)
    assert result.exit_code == 0, result.stderr
    assert "history   seen: the newest 20 of film by action watch per user, up to 120 min old\n" in result.stdout
    assert "history   liked: the newest 20 of film by action like per user, of any age\n" in result.stdout
    assert "seen" not in result.stderr
    assert result.stderr == (
        "warning: history liked: action like is no task's: the history stays empty unless applications send it\n"
    )


def test_check_config_names_the_settings_of_the_client_and_shows_no_value(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hidden-value")
    client = '"sasl.mechanism" = "PLAIN"\n"sasl.username" = "loop"\n"sasl.password" = { env = "KAFKA_PASSWORD" }\n'
    config.write_text(f"{config.read_text()}\n[kafka.client]\n{client}")
    result = run("check-config", "--config", config)
    assert result.exit_code == 0, result.stderr
    assert "client    sasl.mechanism, sasl.username, sasl.password\n" in result.stdout
    assert "flink     sasl.mechanism, sasl.jaas.config\n" in result.stdout
    assert "hidden-value" not in result.stdout
    config.write_text(f'{config.read_text()}"ssl.cipher.suites" = "x"\n')
    result = run("check-config", "--config", config)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "rillet check-config: [kafka.client] ssl.cipher.suites: Flink's Kafka client has no"
    )


def test_check_config_refuses_a_wrong_spec_with_its_path(config: Path) -> None:
    (config.parent / "films.spec.toml").write_text(SPEC.replace("600000", "-1"))
    result = run("check-config", "--config", config)
    assert result.exit_code == 2
    assert "films.spec.toml: tasks[0].window_ms: -1 is not positive" in result.stderr


def test_record_leaves_a_recording_alone_unless_told_to_replace_it(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "monday"
    generate_synthetic(folder, requests=5)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = run("record", folder, "--config", config)
    assert result.exit_code == 2
    assert "holds a recording already; name another directory, or say --replace" in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.integration
def test_a_recording_is_not_touched_before_the_new_one_is_complete(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "monday"
    generate_synthetic(folder, requests=5)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # The broker is away.
    assert run("record", folder, "--replace", "--config", config, "--bootstrap-servers", "127.0.0.1:1").exit_code == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_replay_refuses_a_recording_of_another_spec(config: Path, tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "other", requests=5)
    result = run("replay", tmp_path / "other", "--config", config)
    assert result.exit_code == 2
    assert "recorded under feature spec synthetic" in result.stderr
    assert "every record would be a dead letter" in result.stderr


def test_a_library_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rillet.jobs.config", None)  # as if importing it failed
    monkeypatch.setattr("rillet.__main__.EXTRAS", {"rillet": "joiner"})
    result = run("check-config", "--config", config)
    assert result.exit_code == 2
    assert result.stderr == "rillet check-config: rillet.jobs.config is not installed: pip install 'rillet[joiner]'\n"


def test_down_with_nothing_running_is_no_error(config: Path) -> None:
    result = run("down", "--config", config)
    assert result.exit_code == 0
    assert result.output.count("was not running") == 4  # three services and the broker


def test_a_recording_that_is_none_is_refused(config: Path, tmp_path: Path) -> None:
    result = run("replay", tmp_path, "--config", config)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rillet.devstack.stack.down", broken)
    assert isinstance(run("down", "--config", config).exception, ZeroDivisionError)


def test_a_file_that_may_not_be_written_is_one_line_and_status_2(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/monday")

    monkeypatch.setattr("rillet.jobs.config.load_config", denied)
    result = run("check-config", "--config", config)
    assert result.exit_code == 2
    assert result.stderr == "rillet check-config: /data/monday: Permission denied\n"


def test_version_is_the_packages() -> None:
    assert run("--version").output.startswith("rillet, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("join", "--from", "yesterday"), "--from: 'yesterday' is none of: earliest, latest, a time"),
        (
            ("backfill", "--from", "2026-05-02T00:00Z", "--until", "2026-05-01T00:00Z", "--examples-topic", "again"),
            "--until has to be a later time than --from",
        ),
        (
            ("backfill", "--from", "2026-05-02", "--until", "2026-05-03", "--examples-topic", "again"),
            "'2026-05-02' has no time zone",
        ),
    ],
)
def test_a_time_that_is_none_is_refused_with_its_option(arguments: tuple[str, ...], message: str, config: Path) -> None:
    result = run(*arguments, "--config", str(config))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
