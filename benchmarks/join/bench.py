"""Runs the contestants one after the other, and makes the table and the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Table

from rillet.benchmarks.errors import BenchError
from rillet.benchmarks.join.contestant import Contestant, Run
from rillet.benchmarks.join.contestants import Ours
from rillet.benchmarks.join.figures import Measured, ratios
from rillet.benchmarks.join.latency import measure_latency
from rillet.benchmarks.join.process_tree import ProcessTree, Sample
from rillet.benchmarks.join.shapes import REQUEST, Shape, load_of, open_recording
from rillet.benchmarks.join.topics import examples_topic, raw_topics, read_output
from rillet.benchmarks.result import BenchResult
from rillet.connectors.topics import delete_topics
from rillet.devstack.broker import Broker
from rillet.devstack.process import free_port
from rillet.jobs.data_lock import hold
from rillet.schemas import RilletError

_MIB = 1 << 20


class JoinerBench:
    """The runs of one call, on a broker that runs as long as its context.

    :param data: for recordings, the broker and its topics, and the environments of peers; all of it is used again.
    :param requests: of 16 impressions, that a recording has.
    :param say: takes a line about what goes on.
    """

    def __init__(
        self, data: Path, requests: int, parallelism: int, timeout_s: float, say: Callable[[str], None]
    ) -> None:
        self._data = data.absolute()
        self._requests = requests
        self._parallelism = parallelism
        self._partitions = max(2, parallelism)
        self._timeout_s = timeout_s
        self._say = say
        self._servers = ""

    @contextmanager
    def broker(self) -> Iterator[None]:
        """Runs the broker, with the topics of earlier calls.

        :raises ServiceError: it does not come up, or another call runs on the same folder.
        """
        with hold(self._data, "bench"):
            broker = Broker(self._data / "broker", free_port())
            # Of a call that was killed.
            broker.stop()
            self._say("starting the broker")
            broker.start()
            self._servers = broker.bootstrap_servers
            try:
                yield
            finally:
                broker.stop()

    def measure(self, contestant: Contestant, shape: Shape) -> Measured:
        """One contestant on one shape.

        :raises BenchError: it failed, or wrote nothing.
        """
        recording = open_recording(self._data / "recordings", self._requests, shape)
        features, actions = raw_topics(self._servers, recording, self._partitions)
        subject = f"{contestant.name}, {shape.name}"
        self._say(f"{subject}: {contestant.what}")
        folder = self._folder(f"{contestant.name}-{shape.name}")
        examples = examples_topic(self._servers, f"{contestant.name}-{shape.name}")
        run = Run(self._servers, features, actions, examples, folder, self._parallelism)
        launch = contestant.launch(run)

        def tell(seconds: float, sample: Sample) -> None:
            rss = sample.rss_bytes / _MIB
            self._say(f"{subject}: {seconds:,.0f} s, {sample.cpu_s:,.0f} s of CPU time, {rss:,.0f} MiB")

        try:
            with ProcessTree(launch.command, launch.environment, folder / "output.log", launch.cwd) as tree:
                tree.wait(self._timeout_s, tell)
            output = read_output(self._servers, examples, contestant.rows)
        finally:
            delete_topics(self._servers, [examples])
        if output is None:
            raise BenchError(f"has written nothing: {tree.last_lines()}")
        measured = Measured(contestant.name, shape.name, load_of(recording), output, tree.usage)
        self._say(f"{subject}: {summary(measured)}")
        return measured

    def latency(self, contestant: Ours, measured: Measured) -> Measured:
        """What was measured of ours, with how long actions take at half of that speed.

        :raises BenchError: see :func:`measure_latency`.
        """
        recording = open_recording(self._data / "recordings", self._requests, REQUEST)
        folder = self._folder(f"{contestant.name}-live")
        half = measured.impressions_per_s / 2
        found = measure_latency(contestant, self._servers, recording, half, folder, self._partitions, self._say)
        return replace(measured, latency=found)

    def _folder(self, name: str) -> Path:
        folder = self._data / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def run_all(
    bench: JoinerBench,
    chosen: Sequence[Contestant],
    data: Path,
    on_measured: Callable[[Sequence[Measured]], None],
    *,
    latency: bool,
) -> tuple[list[Measured], dict[str, str]]:
    """Measures every contestant on every shape that it can read, then the latency of ours.

    :param on_measured: called after each run with all that is measured so far.
    :returns: what was measured, and what went wrong, by subject: one that fails does not lose the others.
    """
    for contestant in chosen:
        contestant.prepare(data)
    measured: list[Measured] = []
    failed: dict[str, str] = {}
    with bench.broker():
        for contestant in chosen:
            for shape in contestant.shapes:
                try:
                    measured.append(bench.measure(contestant, shape))
                except RilletError as error:
                    failed[f"{contestant.name}, {shape.name}"] = str(error)
                on_measured(measured)
        known = {contestant.name: contestant for contestant in chosen}
        for at, one in enumerate(measured):
            contestant = known[one.contestant]
            if latency and isinstance(contestant, Ours) and one.shape == REQUEST.name:
                try:
                    measured[at] = bench.latency(contestant, one)
                except RilletError as error:
                    failed[f"{contestant.name}, latency"] = str(error)
                on_measured(measured)
    return measured, failed


def result_of(measured: Sequence[Measured], chosen: Sequence[Contestant]) -> BenchResult:
    """Figures, ratios and versions, for the file."""
    versions: dict[str, str] = {}
    for contestant in chosen:
        versions |= contestant.versions()
    return BenchResult("joiner", [figure for one in measured for figure in one.figures()], ratios(measured), versions)


def summary(measured: Measured) -> str:
    """The most important figures in a line."""
    return (
        f"{measured.impressions_per_s:,.0f} impressions/s, {measured.cpu_s_per_million:.1f} CPU s per million,"
        f" {measured.usage.peak_rss_bytes / _MIB:,.0f} MiB, positives {positives_text(measured)}"
    )


def positives_text(measured: Measured) -> str:
    """How many positives there are, and whether that is right."""
    if measured.correct is None:
        return "-"
    found, expected = f"{measured.output.positives:,}", measured.load.positives
    return found if measured.correct else f"{found}, NOT {expected:,}"


def table_of(measured: Sequence[Measured], titles: Mapping[str, str]) -> Table:
    """All figures as a table.

    :param titles: what each contestant is.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("contestant")
    table.add_column("impressions per record")
    for name in ("impressions/s", "records/s", "cores", "CPU s per million", "peak MiB", "positives", "negatives"):
        table.add_column(name, justify="right")
    for one in measured:
        table.add_row(
            titles[one.contestant],
            "16" if one.shape == REQUEST.name else "1",
            f"{one.impressions_per_s:,.0f}",
            f"{one.records_per_s:,.0f}",
            f"{one.cores:.2f}",
            f"{one.cpu_s_per_million:.1f}",
            f"{one.usage.peak_rss_bytes / _MIB:,.0f}",
            positives_text(one),
            "-" if one.output.negatives is None else f"{one.output.negatives:,}",
        )
    return table


def latency_lines(measured: Sequence[Measured]) -> list[str]:
    """How long actions took to their examples."""
    lines = []
    for one in measured:
        if one.latency is None:
            continue
        parts = [
            f"{what} p50 {np.percentile(times, 50):,.0f} ms, p99 {np.percentile(times, 99):,.0f} ms"
            for what, times in (
                ("until the broker has it", one.latency.to_broker_ms),
                ("until it is committed and read", one.latency.to_reader_ms),
            )
        ]
        rate = one.latency.impressions_per_s
        lines.append(f"{one.contestant}: from action to example at {rate:,.0f} impressions/s: {'; '.join(parts)}")
    return lines
