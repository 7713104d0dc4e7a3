"""docker-compose.yml is checked against its schema, against the files it names, and by running its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rillet.__main__ import COMMANDS
from rillet.connectors.limits import TOPIC_MAX_BYTES
from rillet.devstack.cluster import FLINK_HOME, FlinkCluster, start_cluster
from rillet.devstack.process import Process, free_port
from rillet.jobs.config import BOOTSTRAP_VARIABLE, RilletConfig, dump_config, load_config
from rillet.jobs.services import probe
from rillet.jobs.toolchain import POM, python_environment
from rillet.joiner import JoinerRuns

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
IMAGE_ROOT = "/app/"
CONFIG = "/app/deploy/rillet.toml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def rillet_services(services: dict[str, Any]) -> dict[str, list[str]]:
    return {name: service["command"] for name, service in services.items() if service["image"] == "rillet"}


def test_the_file_follows_the_compose_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_waits_only_for_services_that_can_become_so(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}, which has no check"


def test_every_rillet_service_runs_a_command_of_the_cli_with_the_deployed_configuration(
    services: dict[str, Any],
) -> None:
    commands = rillet_services(services)
    assert {"topics", "trainer", "server"} <= set(commands)
    for command in commands.values():
        assert command[0] in COMMANDS
        assert command[1:] == ["--config", CONFIG]


def test_files_named_by_services_are_in_the_project_and_in_the_image(services: dict[str, Any]) -> None:
    copied = set(re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text(), re.M))
    for service in services.values():
        for part in [*service.get("entrypoint", []), *service.get("command", [])]:
            if part.startswith(IMAGE_ROOT):
                path = part.removeprefix(IMAGE_ROOT)
                assert (ROOT / path).is_file(), path
                assert path.partition("/")[0] in copied, path
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.partition(":")[0]).is_file(), volume


def test_the_image_has_in_lib_what_a_task_manager_loads_once_for_all_jobs() -> None:
    """From a job's files it is loaded per job, and the library of the interpreter can be loaded once per process."""
    assert "ln -s /opt/flink/opt/flink-python-*.jar /opt/flink/lib/" in (ROOT / "Dockerfile").read_text()


def test_every_package_is_in_the_image() -> None:
    copied = set(re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text(), re.M))
    packages = re.search(r"^packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.M)
    assert packages is not None
    assert set(re.findall(r'"(\w+)"', packages[1])) <= copied


def test_the_broker_takes_records_as_large_as_the_topics(services: dict[str, Any]) -> None:
    assert services["broker"]["environment"]["KAFKA_MESSAGE_MAX_BYTES"] == TOPIC_MAX_BYTES


def test_versions_are_those_of_the_local_stack(services: dict[str, Any]) -> None:
    kafka = re.search(r"kafka_2\.13</artifactId>\s*<version>([\d.]+)<", POM.read_text())
    flink = re.search(r"^apache-flink==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert kafka is not None
    assert flink is not None
    assert services["broker"]["image"] == f"apache/kafka:{kafka[1]}"
    assert f"flink:{flink[1]}-java17" in (ROOT / "Dockerfile").read_text()


def test_ports_agree_between_configuration_healthchecks_and_prometheus(services: dict[str, Any]) -> None:
    config = load_config(ROOT / "deploy" / "rillet.toml", environment={})
    assert f":{config.health.train_port}/readyz" in services["trainer"]["healthcheck"]["test"][-1]
    assert f":{config.serving.port}/v2/health/ready" in services["server"]["healthcheck"]["test"][-1]
    scraped = {
        target
        for job in yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    assert {f"trainer:{config.health.train_port}", f"server:{config.serving.port}"} <= scraped
    assert {target.partition(":")[0] for target in scraped} <= set(services)


@pytest.fixture
def deployed(tmp_path: Path, topics: Callable[..., str]) -> tuple[Path, RilletConfig]:
    """deploy/rillet.toml with ports, topics and a folder of this test's own."""
    config = load_config(ROOT / "deploy" / "rillet.toml", environment={})
    names = {name: topics(name) for name in ("examples", "deltas", "dead_letters")}
    names |= {name: topics(name, config.kafka.partitions) for name in ("features", "actions")}
    config = replace(
        config,
        data_dir=tmp_path / "data",
        kafka=replace(config.kafka, topics=replace(config.kafka.topics, **names)),
        serving=replace(config.serving, port=free_port()),
        health=replace(config.health, train_port=free_port()),
    )
    path = tmp_path / "rillet.toml"
    path.write_text(dump_config(config))
    return path, config


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in reversed(started):
        process.stop(10)


@pytest.mark.integration
def test_the_commands_of_the_services_become_healthy_as_plain_processes(
    services: dict[str, Any], deployed: tuple[Path, RilletConfig], broker: str, processes: list[Process], tmp_path: Path
) -> None:
    path, config = deployed
    original = load_config(ROOT / "deploy" / "rillet.toml", environment={})
    ports = {original.health.train_port: config.health.train_port, original.serving.port: config.serving.port}
    environment = {**python_environment(), BOOTSTRAP_VARIABLE: broker}

    def command(name: str) -> list[str]:
        arguments = [str(path) if part == CONFIG else part for part in services[name]["command"]]
        return [sys.executable, "-m", "rillet", *arguments]

    def healthy(name: str) -> bool:
        check = [sys.executable, *services[name]["healthcheck"]["test"][2:]]
        for old, new in ports.items():
            check[-1] = check[-1].replace(f":{old}/", f":{new}/")
        if not probe(check[-1].split("'")[1]):  # asked here first: a process a look would starve the service
            return False
        return subprocess.run(check, capture_output=True, timeout=20, check=False).returncode == 0

    once = subprocess.run(command("topics"), env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert once.returncode == 0, once.stderr
    for name in ("trainer", "server"):
        process = Process(name, tmp_path)
        process.start(command(name), environment)
        processes.append(process)
        process.wait_until(lambda name=name: healthy(name), 120)
    for process in reversed(processes):
        assert process.stop(30) is True


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FlinkCluster]:
    """A cluster as in the image: the Kafka connector and Flink's Python jar lie in its lib."""
    cluster = start_cluster(tmp_path / "flink")
    yield cluster
    cluster.stop()


@pytest.mark.integration
def test_the_joiner_is_submitted_to_a_cluster_once_and_goes_on_from_its_newest_checkpoint(
    deployed: tuple[Path, RilletConfig], broker: str, cluster: FlinkCluster
) -> None:
    path, _ = deployed
    environment = cluster.environment | {BOOTSTRAP_VARIABLE: broker}
    runs = JoinerRuns(cluster.folder / "runs")

    def submit() -> str:
        command = [str(ROOT / "deploy" / "submit-joiner.sh"), str(path), str(runs.folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def jobs() -> dict[str, str]:
        return {job["id"]: cluster.job_state(job["id"]) for job in (cluster.get("/jobs") or {"jobs": []})["jobs"]}

    assert "goes on from nothing" in submit()
    tasks = cluster.task_manager()
    tasks.wait_until(lambda: [*jobs().values()] == ["RUNNING"], 60)
    assert submit().strip() == "the joiner runs already"
    assert [*jobs().values()] == ["RUNNING"]

    tasks.wait_until(lambda: runs.newest is not None, 60)
    (first,) = jobs()
    cancel = [str(FLINK_HOME / "bin" / "flink"), "cancel", first]
    subprocess.run(cancel, env=environment, capture_output=True, timeout=60, check=True)
    tasks.wait_until(lambda: jobs()[first] == "CANCELED", 60)
    newest = runs.newest
    assert newest is not None
    assert f"run 000002 goes on from {newest.snapshot}" in submit()
    tasks.wait_until(lambda: "RUNNING" in jobs().values(), 60)
    (second,) = (job for job, state in jobs().items() if state == "RUNNING")
    restored = (cluster.get(f"/jobs/{second}/checkpoints") or {})["latest"]["restored"]
    assert restored["external_path"].endswith(str(newest.snapshot))
    # In the TaskManager that has run the first one.
    tasks.wait_until(lambda: cluster.completed_checkpoints(second) > 0, 60)
