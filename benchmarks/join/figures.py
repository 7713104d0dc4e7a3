"""From what was seen of a run to its figures, and from the figures of a call to its ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rillet.benchmarks.join.process_tree import Usage
from rillet.benchmarks.join.shapes import Load
from rillet.benchmarks.result import Figure
from rillet.schemas.arrays import Float64s

#: shares of a recording between which speed and CPU time are measured: before it, Java compiles and no window has closed yet;
#: after it, the last windows close
FROM, TO = 0.25, 0.95
_MILLION = 1_000_000
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """What a contestant has written, by the broker's clock.

    :param times_s: float64[n], when the broker took each record by which progress is told, epoch seconds, increasing. These
        come evenly over the recording: a positive each, or what the pass-through passes on.
    :param positives: rows of label 1; None of one that joins nothing.
    :param negatives: rows of label 0.
    """

    times_s: Float64s
    positives: int | None = None
    negatives: int | None = None

    def time_at(self, share: float) -> float:
        """When that share of the recording had been joined, epoch seconds."""
        return float(self.times_s[min(int(share * len(self.times_s)), len(self.times_s) - 1)])


@dataclass(frozen=True, slots=True)
class Latency:
    """From an action's sending to its example, in milliseconds, one element per action.

    :param to_broker_ms: until the broker has the example: what the join takes, without the transaction's commit.
    :param to_reader_ms: until a reader of committed records has it: in all.
    """

    to_broker_ms: Float64s
    to_reader_ms: Float64s
    impressions_per_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One contestant on one shape."""

    contestant: str
    shape: str
    load: Load
    output: Output
    usage: Usage
    latency: Latency | None = None

    @property
    def subject(self) -> str:
        """Contestant and shape."""
        return f"{self.contestant}, {self.shape}"

    @property
    def span_s(self) -> float:
        """How long it took from :data:`FROM` to :data:`TO` of the recording."""
        return self.output.time_at(TO) - self.output.time_at(FROM)

    @property
    def impressions_per_s(self) -> float:
        """Impressions read per second of the span."""
        return (TO - FROM) * self.load.impressions / self.span_s

    @property
    def records_per_s(self) -> float:
        """Records of both topics read per second of the span."""
        return (TO - FROM) * self.load.records / self.span_s

    @property
    def cpu_s_per_million(self) -> float:
        """CPU seconds of all its processes within the span, without Java's compilers, per million impressions."""
        cpu_s = self.usage.cpu_at(self.output.time_at(TO)) - self.usage.cpu_at(self.output.time_at(FROM))
        return cpu_s * _MILLION / ((TO - FROM) * self.load.impressions)

    @property
    def compiling_s(self) -> float:
        """CPU seconds of Java's compilers in all of the run."""
        return self.usage.samples[-1].compiling_s

    @property
    def cores(self) -> float:
        """How many cores it had in the span, on average, without Java's compilers: fewer than it could use where others work."""
        return self.cpu_s_per_million * self.impressions_per_s / _MILLION

    @property
    def start_up_s(self) -> float:
        """From the command to the first of those records."""
        return self.output.time_at(0.0) - self.usage.samples[0].time_s

    @property
    def correct(self) -> bool | None:
        """Whether it has made all positives and no others; None of one that joins nothing."""
        return None if self.output.positives is None else self.output.positives == self.load.positives

    def figures(self) -> list[Figure]:
        """All of it, for the JSON file."""
        values: list[tuple[str, float | None, str]] = [
            ("impressions", self.impressions_per_s, "impressions/s"),
            ("records", self.records_per_s, "records/s"),
            ("cpu", self.cpu_s_per_million, "CPU s per million impressions"),
            ("peak_rss", self.usage.peak_rss_bytes / _MIB, "MiB"),
            ("compiling", self.compiling_s, "CPU s"),
            ("cores", self.cores, "cores"),
            ("start_up", self.start_up_s, "s"),
            ("span", self.span_s, "s"),
            ("positives", self.output.positives, "rows"),
            ("expected_positives", None if self.correct is None else self.load.positives, "rows"),
            ("negatives", self.output.negatives, "rows"),
        ]
        if self.latency is not None:
            values.append(("latency_rate", self.latency.impressions_per_s, "impressions/s"))
            for name, times in (
                ("latency_to_broker", self.latency.to_broker_ms),
                ("latency_to_reader", self.latency.to_reader_ms),
            ):
                values += [(f"{name}_p{p}", float(np.percentile(times, p)), "ms") for p in (50, 99)]
        return [Figure(self.subject, name, value, unit) for name, value, unit in values if value is not None]


#: ratio -> ours and the contestant that it is compared with, each with its shape
RATIOS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "vs_flink_sql_request": (("ours", "request"), ("flink-sql", "impression")),
    "vs_flink_sql_heap_request": (("ours", "request"), ("flink-sql-heap", "impression")),
    "vs_flink_sql_impression": (("ours", "impression"), ("flink-sql", "impression")),
    "vs_flink_sql_heap_impression": (("ours", "impression"), ("flink-sql-heap", "impression")),
    "vs_plain_pyflink": (("ours", "impression"), ("plain-pyflink", "impression")),
    "vs_quixstreams": (("ours", "impression"), ("quixstreams", "impression")),
    "vs_passthrough": (("ours", "request"), ("passthrough", "request")),
    "vs_passthrough_impression": (("ours", "impression"), ("passthrough", "impression")),
    "process_vs_thread": (("ours-process", "request"), ("ours", "request")),
}


def ratios(measured: Sequence[Measured]) -> Mapping[str, float]:
    """How many times as fast as its peer ours was, in this call.

    :returns: ``NAME`` by CPU time per impression, which other work on the machine disturbs least, and ``NAME_wall`` by
        impressions per second; only of what was run.
    """
    by_name = {(one.contestant, one.shape): one for one in measured}
    found: dict[str, float] = {}
    for name, (ours, peer) in RATIOS.items():
        if ours in by_name and peer in by_name:
            found[name] = by_name[peer].cpu_s_per_million / by_name[ours].cpu_s_per_million
            found[f"{name}_wall"] = by_name[ours].impressions_per_s / by_name[peer].impressions_per_s
    return found
