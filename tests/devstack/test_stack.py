from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.connectors.errors import TopicError
from rillet.connectors.topics import ensure_broker, topic_ends
from rillet.devstack import process as process_module
from rillet.devstack import stack as stack_module
from rillet.devstack.broker import Broker
from rillet.devstack.process import Process, free_port
from rillet.devstack.stack import Stack, down, up
from rillet.jobs.config import parse_config
from rillet.jobs.errors import ConfigError, PortInUseError, ServiceError
from rillet.jobs.services import SERVICES, port_of
from rillet.jobs.toolchain import python_environment
from rillet.joiner import JoinerError, JoinerRuns, Kept, KeptSettings
from rillet.schemas import dump_spec
from tests.joiner.support import SPEC

#: answers every path with 200, so also the readiness probes
READY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'# TYPE rillet_rows gauge\\nrillet_rows 7.0\\n' if self.path == '/metrics' else b'ok'
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""
CHECK_TOPICS = Stack.check_topics
BROKEN = "raise SystemExit('rillet train: the checkpoint is of another model')"


def make_stack(folder: Path, servers: str) -> Stack:
    (folder / "spec.toml").write_text(dump_spec(SPEC))
    config = parse_config({"spec": str(folder / "spec.toml"), "data_dir": str(folder)})
    unique = {name: f"{name}-{folder.name}" for name in ("features", "actions", "examples", "deltas", "dead_letters")}
    config = replace(
        config,
        kafka=replace(config.kafka, bootstrap_servers=servers, topics=replace(config.kafka.topics, **unique)),
        serving=replace(config.serving, port=free_port()),
        health=replace(config.health, join_port=free_port(), train_port=free_port()),
    )
    return Stack(config, folder / "rillet.toml")


@pytest.fixture
def fake_services(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Programs that stand in for the services, by name."""
    programs = dict.fromkeys(SERVICES, READY)

    def command(self: Stack, name: str) -> list[str]:
        return [sys.executable, "-c", programs[name], str(port_of(self.config, name))]

    monkeypatch.setattr(Stack, "command", command)
    return programs


@pytest.fixture
def stack(tmp_path: Path, broker: str, fake_services: dict[str, str]) -> Iterator[Stack]:
    stack = make_stack(tmp_path, broker)
    yield stack
    for name in SERVICES:
        stack.stop(name, kill=True)


@pytest.mark.integration
def test_up_makes_topics_and_starts_what_is_ready_and_up_again_changes_nothing(stack: Stack) -> None:
    said: list[str] = []
    up(stack, said.append)
    pids = [stack.process(name).pid for name in SERVICES]
    assert None not in pids
    assert all(stack.is_ready(name) for name in SERVICES)
    assert set(topic_ends(stack.config.kafka.bootstrap_servers, stack.config.kafka.topics.features) or {}) == {0, 1}
    assert "was not started from" in said[0]
    up(stack, said.append)
    assert [stack.process(name).pid for name in SERVICES] == pids
    assert sum("runs already" in line for line in said) == 3


@pytest.fixture
def without_broker(tmp_path: Path, fake_services: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Services that stand in for the real ones, and a broker that is taken to answer."""
    monkeypatch.setattr(Stack, "start_broker", lambda *_: False)
    monkeypatch.setattr(Stack, "check_topics", lambda _: None)
    stack = make_stack(tmp_path, "127.0.0.1:1")
    yield stack
    for name in SERVICES:
        stack.stop(name, kill=True)


def _changed(stack: Stack, **trainer: int) -> Stack:
    return Stack(replace(stack.config, trainer=replace(stack.config.trainer, **trainer)), stack.config_path)


def _pids(stack: Stack) -> list[int | None]:
    return [stack.process(name).pid for name in SERVICES]


def test_services_of_another_configuration_are_refused_with_what_differs_and_go_on(without_broker: Stack) -> None:
    stack, said = without_broker, list[str]()
    up(stack, said.append, ["join", "train"])
    pids = _pids(stack)
    changed = _changed(stack, batch_size=7)
    with pytest.raises(ServiceError) as caught:
        up(changed, said.append)
    assert str(caught.value) == (
        f"services run with another configuration than {stack.config_path}: join, train (trainer.batch_size"
        f" {stack.config.trainer.batch_size}, now 7). Nothing was started or stopped: `rillet up --restart` restarts them"
        " one after the other with this one"
    )
    assert _pids(stack) == pids
    assert pids[-1] is None, "the server was not started either"
    # the advice
    up(changed, said.append, restart=True)
    assert set(_pids(stack)).isdisjoint({None, *pids})
    before = _pids(stack)
    up(changed, said.append, restart=True)
    up(changed, said.append)
    assert _pids(stack) == before


def test_services_that_differ_in_several_ways_are_told_apart(without_broker: Stack) -> None:
    up(without_broker, lambda _: None, ["train"])
    up(_changed(without_broker, batch_size=7), lambda _: None, ["join"])
    with pytest.raises(
        ServiceError, match=r"join \(trainer.batch_size 7, now 9\) and train \(trainer.batch_size \d+, now 9\)"
    ):
        up(_changed(without_broker, batch_size=9), lambda _: None)


def test_a_restart_goes_from_readers_to_writers_and_waits_for_each(
    without_broker: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, steps = without_broker, list[str]()
    up(stack, lambda _: None)
    stop, start, wait_ready = Stack.stop, Stack.start, Stack.wait_ready
    monkeypatch.setattr(Stack, "stop", lambda s, name, **_: steps.append(f"stop {name}") or stop(s, name))
    monkeypatch.setattr(Stack, "start", lambda s, name: steps.append(f"start {name}") or start(s, name))

    def waited(stack: Stack, name: str, **options: object) -> None:
        assert not options["beside"]
        # Until one is ready those after it run as they were.
        ready = " ".join(other for other in SERVICES if other != name and stack.is_ready(other))
        steps.append(f"wait for {name} beside {ready}")
        wait_ready(stack, name)

    monkeypatch.setattr(Stack, "wait_ready", waited)
    up(_changed(stack, batch_size=7), lambda _: None, restart=True)
    monkeypatch.undo()
    assert steps == [
        *("stop train", "start train", "wait for train beside join serve"),
        *("stop join", "start join", "wait for join beside train serve"),
        *("stop serve", "start serve", "wait for serve beside join train"),
    ]


@pytest.mark.parametrize(
    ("dies", "left"),
    [
        (
            "train",
            "; join and serve were not restarted and still run with the configuration of before: `rillet up --restart` goes on",
        ),
        (
            "join",
            "; serve was not restarted and still runs with the configuration of before: `rillet up --restart` goes on",
        ),
        ("serve", ""),
    ],
)
def test_a_service_that_does_not_come_back_leaves_those_after_it_as_they_were(
    without_broker: Stack, monkeypatch: pytest.MonkeyPatch, dies: str, left: str
) -> None:
    stack, stopped = without_broker, list[str]()

    def wait_ready(stack: Stack, name: str, **_: object) -> None:
        if name == dies:
            raise ServiceError(f"{name} died while starting")

    monkeypatch.setattr(Stack, "differences", lambda *_: ["another batch size"])
    monkeypatch.setattr(Stack, "start", lambda *_: True)
    monkeypatch.setattr(Stack, "stop", lambda _, name, **__: stopped.append(name) or True)
    monkeypatch.setattr(Stack, "wait_ready", wait_ready)
    monkeypatch.setattr(Process, "pid", os.getpid())
    with pytest.raises(ServiceError, match=rf"^{dies} died while starting{left}$"):
        up(stack, lambda _: None, restart=True)
    order = ["train", "join", "serve"]
    assert stopped == order[: order.index(dies) + 1]
    monkeypatch.undo()


def test_a_restart_that_a_slow_service_has_ended_goes_on_as_it_says(
    without_broker: Stack, fake_services: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = without_broker
    up(stack, lambda _: None, ["join", "train"])
    join, changed, wait_ready = stack.process("join").pid, _changed(stack, batch_size=7), Stack.wait_ready
    fake_services["train"] = f"import time; time.sleep(0.3)\n{READY}"
    monkeypatch.setattr(Stack, "wait_ready", lambda s, name, **_: wait_ready(s, name, timeout_s=0.05))
    with pytest.raises(
        ServiceError, match=r"run the same command again.*join was not.*: `rillet up --restart` goes on$"
    ):
        up(changed, lambda _: None, ["join", "train"], restart=True)
    train = stack.process("train").pid
    assert stack.process("join").pid == join
    monkeypatch.setattr(Stack, "wait_ready", wait_ready)
    up(changed, lambda _: None, ["join", "train"], restart=True)
    assert stack.process("train").pid == train
    assert stack.process("join").pid not in (None, join)
    assert not changed.differences("join")


def _left_open(stack: Stack, **topics: str) -> None:
    """What a joiner notes that has open windows, of these topics."""
    names = {"features": stack.config.kafka.topics.features, "actions": stack.config.kafka.topics.actions} | topics
    kept = Kept(KeptSettings.of(SPEC, stack.config.joiner), {kind: (name, "id-1") for kind, name in names.items()})
    run = JoinerRuns(stack.config.data_dir / "joiner" / "runs").begin(kept.dump())
    snapshot = run.checkpoint_dir / "job" / "chk-3"
    snapshot.mkdir(parents=True)
    (snapshot / "_metadata").write_bytes(b"")


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ("spec gone", ConfigError, r"rillet\.toml: .*gone\.toml"),
        ("spec broken", ConfigError, r"rillet\.toml: .*broken\.toml"),
        ("specs in conflict", ConfigError, r"also_accepts: .*cannot be accepted at the same time.*rillet spec diff"),
        ("sources", ConfigError, r"sources\.features\.slots\.studio: feature spec test has no slot"),
        ("slices", JoinerError, "slice_ms"),
        ("another spec", JoinerError, "neither spec nor among also_accepts"),
        ("other topics", JoinerError, "features of topic features-.*, now elsewhere"),
        ("topics made anew", JoinerError, "is not the one that the joiner's state in .* was made of"),
        ("a compacted topic", TopicError, "features is compacted"),
        ("the address", ServiceError, r"port \d+ on 192\.0\.2\.1 cannot be listened on"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_stopped(
    without_broker: Stack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    error: type[Exception],
    told: str,
) -> None:
    stack, config = without_broker, without_broker.config
    up(stack, lambda _: None, ["train"])
    pid = stack.process("train").pid
    _left_open(stack)
    (tmp_path / "broken.toml").write_text("[spec]\n")
    (tmp_path / "other.toml").write_text(dump_spec(replace(SPEC, sampling_seed=9)))
    (tmp_path / "clash.toml").write_text(dump_spec(SPEC).replace(f'name = "{SPEC.item[0].name}"', 'name = "clashing"'))
    source = replace(
        config.sources.features, format="json", request_id="r", time="t", impression_id="i", slots={"studio": "s"}
    )
    changed = {
        "spec gone": replace(config, spec=tmp_path / "gone.toml"),
        "spec broken": replace(config, spec=tmp_path / "broken.toml"),
        "specs in conflict": replace(config, also_accepts=(tmp_path / "clash.toml",)),
        "sources": replace(config, sources=replace(config.sources, features=source)),
        "slices": replace(config, joiner=replace(config.joiner, slice_ms=1)),
        "another spec": replace(config, spec=tmp_path / "other.toml"),
        "other topics": replace(
            config, kafka=replace(config.kafka, topics=replace(config.kafka.topics, features="elsewhere"))
        ),
        "a compacted topic": replace(config, trainer=replace(config.trainer, batch_size=7)),
        "topics made anew": replace(config, trainer=replace(config.trainer, batch_size=7)),
        "the address": replace(config, health=replace(config.health, host="192.0.2.1")),
    }[wrong]
    if wrong == "a compacted topic":

        def refuses(*_: object) -> bool:
            raise TopicError("features is compacted")

        monkeypatch.setattr(Stack, "start_broker", refuses)
    if wrong == "topics made anew":
        monkeypatch.setattr(Stack, "check_topics", CHECK_TOPICS)
        monkeypatch.setattr(stack_module, "topic_ids", lambda _, names: dict.fromkeys(names, "id-2"))
    with pytest.raises(error, match=told):
        up(Stack(changed, stack.config_path), lambda _: None, ["train"], restart=True)
    assert stack.process("train").pid == pid
    # And nothing is started that does not run.
    stack.stop("train", kill=True)
    with pytest.raises(error, match=told):
        up(Stack(changed, stack.config_path), lambda _: None)
    assert _pids(stack) == [None] * 3


def test_all_ports_are_looked_at_before_the_first_service_is_started(without_broker: Stack) -> None:
    stack = without_broker
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", stack.config.serving.port))
        other.bind(("127.0.0.1", stack.config.health.train_port))
        for taken in (one, other):
            taken.listen()
        with pytest.raises(PortInUseError) as caught:
            up(stack, lambda _: None)
        assert _pids(stack) == [None] * 3
        told = str(caught.value)
        by = rf"is in use by process {os.getpid()} \(.*\): stop it, or choose another with"
        assert re.search(rf"train: port {stack.config.health.train_port} {by} \[health\] train_port; serve: port", told)
        assert re.search(rf"serve: port {stack.config.serving.port} {by} \[serving\] port$", told)


def test_a_port_that_another_service_of_ours_holds_is_refused_before_a_restart(without_broker: Stack) -> None:
    stack = without_broker
    up(stack, lambda _: None)
    pids, health = _pids(stack), stack.config.health
    swapped = replace(health, join_port=health.train_port, train_port=health.join_port)
    with pytest.raises(PortInUseError, match=rf"join: port {health.train_port} is in use by process {pids[1]} "):
        up(Stack(replace(stack.config, health=swapped), stack.config_path), lambda _: None, restart=True)
    assert _pids(stack) == pids


def test_of_two_ups_at_once_one_starts_the_services_and_both_wait_for_them(
    without_broker: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the second would put the pid of its own, which dies, in the place of the one that runs."""
    check = stack_module.require_free_port

    def slow(*arguments: object) -> None:
        time.sleep(0.2)
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stack_module, "require_free_port", slow)
    said: list[list[str]] = [[], []]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda lines: up(without_broker, lines.append, ["train"]), said))
    told = [line for lines in said for line in lines]
    assert sum("starting" in line for line in told) == 1, told
    assert "another `rillet up` starts services of this data_dir: waiting for it" in told
    assert without_broker.is_ready("train")


def test_a_service_that_dies_is_told_while_another_one_is_waited_for(
    without_broker: Stack, fake_services: dict[str, str]
) -> None:
    fake_services |= {"join": "import time; time.sleep(60)", "train": BROKEN}
    with pytest.raises(ServiceError, match=r"train died while starting, .*the checkpoint is of another model"):
        up(without_broker, lambda _: None, ["join", "train"])
    assert without_broker.process("join").pid is not None, "left running for a look"


def test_while_a_service_is_waited_for_it_is_told_now_and_then_what_for(
    without_broker: Stack, fake_services: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_services["join"] = "import time; time.sleep(60)"
    clock, said = [0.0], list[str]()

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(process_module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(Stack, "is_ready", lambda *_: clock[0] >= 35)
    up(without_broker, said.append, ["join"])
    assert said[2:4] == [
        "join    waits for Flink's first checkpoint (15 s so far)",
        "join    waits for Flink's first checkpoint (30 s so far)",
    ]
    assert said[4].startswith("join    ready")
    assert len(said) == 5


def test_interrupted_up_stops_what_is_not_ready_and_says_what_runs(
    without_broker: Stack, fake_services: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_services["train"] = "import time; time.sleep(60)"
    wait_ready, said = Stack.wait_ready, list[str]()

    def interrupted(
        stack: Stack, name: str, timeout_s: float = 10.0, say: Callable[[str], None] = print, **_: object
    ) -> None:
        if name == "train":
            raise KeyboardInterrupt
        wait_ready(stack, name, timeout_s)

    monkeypatch.setattr(Stack, "wait_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up(without_broker, said.append, ["join", "train"])
    assert without_broker.process("train").pid is None
    assert without_broker.process("join").pid is not None
    assert said[-2:] == [
        "train   stopped, since it was not ready yet",
        "interrupted; running: join; `rillet down` stops them",
    ]


def test_up_that_is_terminated_ends_as_one_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(stack: Stack, say: object) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return False

    monkeypatch.setattr(Stack, "start_broker", terminated)
    path = tmp_path / "rillet.toml"
    (tmp_path / "a.toml").write_text(dump_spec(SPEC))
    path.write_text('spec = "a.toml"\ndata_dir = "data"\n')
    monkeypatch.setattr(Stack, "require_free_ports", lambda *_: None)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(main, ["up", "--config", str(path)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert result.exit_code == 1
    assert result.stdout == "interrupted; nothing runs\n"


def test_a_service_that_ran_before_an_interrupted_up_stays(
    without_broker: Stack, fake_services: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_services["train"] = "import time; time.sleep(60)"
    without_broker.start("train")
    pid = without_broker.process("train").pid
    monkeypatch.setattr(Stack, "wait_ready", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        up(without_broker, lambda line: None, ["train"])
    assert without_broker.process("train").pid == pid


def test_a_joiner_with_rare_checkpoints_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, waited = make_stack(tmp_path, "127.0.0.1:1"), dict[str, float]()
    stack = replace(
        stack, config=replace(stack.config, flink=replace(stack.config.flink, checkpoint_interval_ms=180_000))
    )
    monkeypatch.setattr(Process, "wait_until", lambda self, ready, timeout_s, *_: waited.update({self.name: timeout_s}))
    for name in SERVICES:
        stack.wait_ready(name)
    assert waited["join"] - waited["train"] == 180
    assert waited["serve"] == waited["train"]


def test_a_data_dir_in_which_nothing_can_be_made_is_one_error(tmp_path: Path) -> None:
    stack, folder = make_stack(tmp_path, "127.0.0.1:1"), tmp_path / "services"
    folder.write_text("a file in the way of a folder")
    with pytest.raises(ServiceError, match=rf"{folder} cannot be written to \(File exists"):
        stack.start("train")


def test_our_own_broker_that_does_not_answer_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, said, asked = make_stack(tmp_path, f"127.0.0.1:{free_port()}"), list[str](), list[object]()

    def answers(broker: Broker) -> bool:
        asked.append(broker)
        return len(asked) > 2

    monkeypatch.setattr(Broker, "_answers", answers)
    monkeypatch.setattr("rillet.devstack.stack.ensure_broker", lambda connection, **_: ensure_broker(connection, 0.1))
    monkeypatch.setattr("rillet.devstack.stack.create_topics", lambda *_, **__: [])
    broker = stack.broker
    pid = broker.process.start([sys.executable, "-c", "import time; time.sleep(60)"])
    (broker.folder / "server.properties").write_text(
        f"listeners=BROKER://{broker.bootstrap_servers},CONTROLLER://x:1\n"
    )
    try:
        assert stack.start_broker(said.append) is False
        assert said == [f"broker  runs (pid {pid}) and does not answer yet: waiting for it"]
        assert broker.process.pid == pid
        moved = make_stack(tmp_path, f"127.0.0.1:{free_port()}")
        with pytest.raises(ServiceError, match=rf"runs \(pid {pid}\) at another address than 127.*`rillet down`"):
            moved.start_broker()
    finally:
        broker.stop(kill=True)


def test_a_service_that_takes_too_long_runs_on_and_it_is_said_how_to_wait_for_it(
    without_broker: Stack, fake_services: dict[str, str]
) -> None:
    fake_services["train"] = "import time; time.sleep(60)"
    without_broker.start("train")
    with pytest.raises(ServiceError, match="it runs on and may only be slow: run the same command again") as caught:
        without_broker.wait_ready("train", timeout_s=0.05)
    assert "it has logged nothing yet" in str(caught.value)
    assert without_broker.process("train").pid is not None


@pytest.mark.integration
def test_down_stops_the_services_and_leaves_a_broker_that_is_not_ours(stack: Stack) -> None:
    up(stack, lambda line: None)
    said: list[str] = []
    down(stack, said.append)
    assert [stack.process(name).pid for name in SERVICES] == [None] * 3
    assert said == ["serve   stopped", "train   stopped", "join    stopped", "broker  was not running here"]
    assert topic_ends(stack.config.kafka.bootstrap_servers, stack.config.kafka.topics.features) is not None


def test_down_leaves_the_broker_running_where_it_is_told_to(
    without_broker: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "owns_broker", property(lambda self: True))
    stopped: list[str] = []
    monkeypatch.setattr(type(without_broker.broker), "stop", lambda self: stopped.append("broker"))
    said: list[str] = []
    down(without_broker, said.append, keep_broker=True)
    assert (said[-1], stopped) == ("broker  runs on", [])
    down(without_broker, said.append)
    assert (said[-1], stopped) == ("broker  stopped", ["broker"])


@pytest.mark.integration
def test_a_service_that_dies_is_reported_by_its_last_words(stack: Stack, fake_services: dict[str, str]) -> None:
    fake_services["train"] = BROKEN
    with pytest.raises(ServiceError, match=r"train died while starting, see .*train\.log: .*another model") as caught:
        up(stack, lambda line: None)
    assert "\n" not in str(caught.value)
    stack.wait_ready("join", timeout_s=10)


def test_the_broker_alone_starts_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(Stack, "start_broker", lambda *_: calls.append("broker") or True)
    monkeypatch.setattr(Stack, "start", lambda stack, name: calls.append(name) or True)
    path = tmp_path / "rillet.toml"
    path.write_text('spec = "a"\ndata_dir = "data"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    result = CliRunner().invoke(main, ["up", "--broker-only", "--config", str(path)])
    assert result.exit_code == 0, result.output
    assert calls == ["broker"]
    assert result.stdout.startswith("broker  started at 127.0.0.1:1, log ")
    assert result.stdout.count("\n") == 1


def test_a_restart_of_the_broker_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would restart nothing, and say so nowhere."""
    monkeypatch.setattr(Stack, "start_broker", lambda *_: pytest.fail("nothing is to be started"))
    path = tmp_path / "rillet.toml"
    path.write_text('spec = "a"\ndata_dir = "data"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    result = CliRunner().invoke(main, ["up", "--broker-only", "--restart", "--config", str(path)])
    assert result.exit_code == 2
    assert "--restart is for services, of which --broker-only starts none" in result.stderr


def test_a_taken_port_is_reported_with_the_setting_to_change(tmp_path: Path, fake_services: dict[str, str]) -> None:
    stack = make_stack(tmp_path, "127.0.0.1:1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.config.serving.port))
        taken.listen()
        with pytest.raises(PortInUseError, match=r"\[serving\] port"):
            stack.start("serve")


def test_no_broker_is_started_for_an_address_elsewhere(tmp_path: Path) -> None:
    stack = make_stack(tmp_path, "kafka.example.org:9092")
    with pytest.raises(ServiceError, match=r"bootstrap_servers is kafka\.example\.org:9092"):
        _ = stack.broker


def test_no_plaintext_broker_is_started_for_clients_that_want_a_secured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rillet.devstack.stack.ensure_broker", lambda connection, **_: ensure_broker(connection, 0.1))
    stack = make_stack(tmp_path, f"127.0.0.1:{free_port()}")
    kafka = replace(stack.config.kafka, client={"security.protocol": "SSL"})
    with pytest.raises(ServiceError, match=r"one started here would be plaintext, \[kafka\.client\] is not"):
        Stack(replace(stack.config, kafka=kafka), stack.config_path).start_broker()
    assert not stack.broker.folder.exists()


def test_services_run_the_rillet_command_with_this_configuration(tmp_path: Path) -> None:
    stack = make_stack(tmp_path, "127.0.0.1:1")
    command = stack.command("train")
    assert command[1:6] == ["-m", "rillet", "train", "--config", str(tmp_path / "rillet.toml")]
    assert command[6:] == ["--bootstrap-servers", "127.0.0.1:1"]


def test_services_get_an_activated_environment() -> None:
    environment = python_environment()
    assert environment["VIRTUAL_ENV"] == sys.prefix
    assert environment["PATH"].startswith(f"{sys.prefix}/bin:")
    assert Path(environment["JAVA_HOME"], "bin", "java").exists()
