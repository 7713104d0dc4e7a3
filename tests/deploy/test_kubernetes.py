"""The Kubernetes manifest says of Flink what rillet's own configuration says, and names files that are in the image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rillet.connectors.start_positions import StartAt
from rillet.jobs.config import BOOTSTRAP_VARIABLE, RilletConfig, load_config
from rillet.jobs.joiner_job import parser
from rillet.operators.job_settings import job_settings
from rillet.operators.memory import TaskMemory

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy" / "flink-kubernetes.yaml"
COMPOSE = ROOT / "docker-compose.yml"
PREFIX = "taskmanager.memory."


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """By kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture(scope="module")
def deployment(documents: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = documents["FlinkDeployment"]["spec"]
    return found


@pytest.fixture(scope="module")
def config() -> RilletConfig:
    return load_config(ROOT / "deploy" / "rillet.toml", environment={})


def memory(config: RilletConfig) -> dict[str, str]:
    """What the formula says of one TaskManager."""
    one = TaskMemory.of(config.joiner, config.flink, converted_topics=len(config.sources.converted))
    return one.settings()


def test_a_task_manager_has_the_memory_of_the_formula(deployment: dict[str, Any], config: RilletConfig) -> None:
    given = {name: size for name, size in deployment["flinkConfiguration"].items() if name.startswith(PREFIX)}
    given[f"{PREFIX}process.size"] = deployment["taskManager"]["resource"]["memory"]
    assert given == memory(config)


def test_so_has_the_one_of_the_compose_file(config: RilletConfig) -> None:
    properties = yaml.safe_load(yaml.safe_load(COMPOSE.read_text())["x-flink"]["environment"]["FLINK_PROPERTIES"])
    assert {name: size for name, size in properties.items() if name.startswith(PREFIX)} == memory(config)
    assert properties["execution.checkpointing.num-retained"] == config.flink.retained_checkpoints


def test_what_the_job_sets_too_is_set_alike(deployment: dict[str, Any], config: RilletConfig) -> None:
    own = job_settings(config.flink)
    both = deployment["flinkConfiguration"].keys() & own.keys()
    assert "execution.checkpointing.num-retained" in both
    assert {name: deployment["flinkConfiguration"][name] for name in both} == {name: own[name] for name in both}
    # What only a cluster has a say in is not in the manifest by accident: the job would overrule it.
    assert not any(name.startswith(("restart-strategy", "pipeline")) for name in deployment["flinkConfiguration"])


def test_there_is_a_slot_for_each_subtask_and_an_interpreter_for_each_slot(
    deployment: dict[str, Any], config: RilletConfig
) -> None:
    assert deployment["job"]["parallelism"] == config.flink.parallelism
    assert deployment["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"


def test_state_survives_pods_and_upgrades(documents: dict[str, Any], deployment: dict[str, Any]) -> None:
    settings = deployment["flinkConfiguration"]
    assert (settings["high-availability.type"], deployment["job"]["upgradeMode"]) == ("kubernetes", "savepoint")
    pod = deployment["podTemplate"]["spec"]
    claim = documents["PersistentVolumeClaim"]
    (shared,) = (v["name"] for v in pod["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName"))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (container,) = pod["containers"]
    assert container["name"] == "flink-main-container", "the name by which the operator merges it"
    (mounted,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == shared)
    kept = ("high-availability.storageDir", "execution.checkpointing.dir", "execution.checkpointing.savepoint-dir")
    assert all(settings[name].startswith(f"file://{mounted}/") for name in kept)
    assert BOOTSTRAP_VARIABLE in {one["name"] for one in container["env"]}


def test_the_job_is_what_the_image_has_and_takes_its_arguments(deployment: dict[str, Any]) -> None:
    job, image = deployment["job"], (ROOT / "Dockerfile").read_text()
    flink = re.search(r"^ARG FLINK=flink:([\d.]+)-", image, re.M)
    assert flink is not None
    assert job["jarURI"] == f"local:///opt/flink/opt/flink-python-{flink[1]}.jar"
    assert deployment["flinkVersion"] == "v" + "_".join(flink[1].split(".")[:2])
    assert job["entryClass"] == "org.apache.flink.client.python.PythonDriver"
    arguments = job["args"]
    script = arguments[arguments.index("-py") + 1]
    assert (ROOT / script.removeprefix("/app/")).is_file()
    seen = _parsed(arguments[arguments.index("-py") + 2 :])
    assert (ROOT / str(seen["config"]).removeprefix("/app/")).is_file()
    mounts = {mount["mountPath"] for mount in deployment["podTemplate"]["spec"]["containers"][0]["volumeMounts"]}
    assert seen["local_dir"] in mounts


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """The arguments as the job takes them."""
    return vars(parser().parse_args(arguments))


def test_where_a_first_start_begins_may_be_given_to_the_job() -> None:
    seen = _parsed(["--config", "c", "--from", "latest", "--runs", "r"])
    assert (seen["start"], seen["runs"]) == (StartAt(latest=True), Path("r"))
