"""The audit of whole topics, or of blocks at hand: what is due under each feature spec, and which spec each request came under.

Under one spec the examples are read once. Under several (``docs/join.md``, rule 19) they are read three times: for the
order in which the joiner had its specs, for the era of each request, and to judge each request by the spec of its era.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from rillet.audit.eras import Era, Share, SpecSequence, find_eras, make_eras
from rillet.audit.expected import ExpectedExamples
from rillet.audit.plain_join import PlainJoin
from rillet.audit.report import AuditReport, Offender, add_up
from rillet.audit.rows import Audit
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.raw_topics import connected_converter, native_or_unusable
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import MAX_AHEAD_MS, DecodeError, ExampleBlock, FeatureSpec, decode_as
from rillet.schemas.arrays import Int64s
from rillet.sources import Kind, SourcesConfig

#: blocks of the examples topic with their partitions, in order of the offsets of each; None for a record that is none
Blocks = Iterable[tuple[int, ExampleBlock | None]]

#: a pair that passes as late weighs less than any number of faulty rows of its request
_FAULT = 1 << 20
_NAMED = 5

__all__ = ["Audit", "AuditReport", "Offender", "audit_eras", "audit_examples", "audit_topics"]


def audit_examples(
    expected: ExpectedExamples, blocks: Iterable[ExampleBlock | None], actions: int = 0, *, allowed_late: int = 0
) -> AuditReport:
    """Audits blocks of a joiner that has had one spec against the plain join; the short form of :class:`Audit`."""
    audit = Audit(expected, actions, allowed_late=allowed_late)
    for block in blocks:
        audit.add(block)
    return audit.report()


def audit_eras(
    joined: Sequence[ExpectedExamples],
    blocks: Callable[[], Blocks],
    actions: int = 0,
    *,
    unusable: int = 0,
    allowed_late: int = 0,
) -> AuditReport:
    """Audits the blocks of a joiner whose spec has changed.

    :param joined: the plain join of all events under each spec, the oldest first.
    :param blocks: gives them all, as often as it is called.
    :param unusable: raw records that are usable under no spec.
    :raises AuditError: rows of several specs alternate, so that it was not one joiner.
    """
    by_hash = {expected.spec.hash: expected for expected in joined}
    sequence = SpecSequence(list(by_hash))
    for partition, block in blocks():
        if block is not None:
            sequence.add(partition, block.spec_hash)
    under = [by_hash[spec_hash] for spec_hash in sequence.history()]
    eras = make_eras([expected.spec for expected in under], [expected.spec for expected in joined])
    era_of = _eras_of_requests(under, eras, blocks)
    audits = [
        Audit(expected, actions, name_at_most=_NAMED, era=era, share=Share(era_of, number, len(eras)))
        for number, (expected, era) in enumerate(zip(under, eras, strict=True))
    ]
    _add_all(audits, blocks)
    reports = [audit.report() for audit in audits]
    report = add_up(reports, unusable_events=unusable, allowed_late=allowed_late, name_at_most=_NAMED)
    return replace(report, spec_changes=sequence.changes)


def _eras_of_requests(
    under: Sequence[ExpectedExamples], eras: Sequence[Era], blocks: Callable[[], Blocks]
) -> dict[str, int]:
    """The era of each request: in every partition of the raw topics eras follow one another."""
    audits = [Audit(expected, name_at_most=0, era=era) for expected, era in zip(under, eras, strict=True)]
    _add_all(audits, blocks)
    #: by request that is one under any spec, its place in the topics
    places: dict[str, tuple[int, tuple[str, int]]] = {}
    for expected in under:
        for request_id, arrival, partition in zip(
            expected.request_ids, expected.arrival.tolist(), expected.partitions, strict=True
        ):
            places[request_id] = min((arrival, partition), places.get(request_id, (arrival, partition)))
    number_of = {request_id: number for number, request_id in enumerate(places)}
    faults: Int64s = np.zeros((len(places), len(eras)), np.int64)
    for era, audit in enumerate(audits):
        numbers = [number_of[request_id] for request_id in audit.expected.request_ids]
        faulty, dropped = audit.faulty_rows()
        faults[numbers, era] = faulty * _FAULT + dropped
        for request_id, rows in audit.strange.items():
            if request_id in number_of:
                faults[number_of[request_id], era] += rows * _FAULT
    of_partition: dict[tuple[str, int], list[tuple[int, str]]] = {}
    for request_id, (arrival, partition) in places.items():
        of_partition.setdefault(partition, []).append((arrival, request_id))
    era_of: dict[str, int] = {}
    for requests in of_partition.values():
        ids = [request_id for _, request_id in sorted(requests)]
        found = find_eras(faults[[number_of[request_id] for request_id in ids]])
        era_of.update(zip(ids, found.tolist(), strict=True))
    return era_of


def _add_all(audits: Sequence[Audit], blocks: Callable[[], Blocks]) -> None:
    for _, block in blocks():
        for audit in audits:
            audit.add(block)


def audit_topics(
    kafka: KafkaConnection | str,
    spec: FeatureSpec,
    *,
    features: str = "features",
    actions: str = "actions",
    examples: str = "examples",
    also_accepts: Sequence[FeatureSpec] = (),
    sources: SourcesConfig | None = None,
    max_ahead_ms: int = MAX_AHEAD_MS,
    lateness_ms: int = 0,
    idle_delay_ms: int | None = None,
    allowed_late: int = 0,
) -> tuple[AuditReport, ExpectedExamples]:
    """Joins what is on the raw topics and audits what is committed on the examples topic, to their present ends.

    It is for a run that has ended or was drained: of a joiner that goes on, rows of open windows are not there yet.

    :param spec: of the joiner now.
    :param also_accepts: those that it had before, the newest first; more than these do no harm. In pages of another format
        may be missing what is new to a spec.
    :param sources: formats of the raw topics, whose records are judged as they are converted; native by default.
    :param max_ahead_ms: see :class:`PlainJoin`, and ``lateness_ms`` and ``idle_delay_ms`` too.
    :param allowed_late: see :class:`Audit`.
    :returns: the report, and the examples that are expected of a joiner with ``spec`` for whoever wants their labels.
    :raises AuditError: see :func:`audit_eras`.
    :raises TopicError: a topic is missing.
    :raises BrokerUnavailableError: no broker answers.
    """
    sources = sources or SourcesConfig()
    # Of one spec and another with the same records, which differ in what a model makes of them, one is enough.
    specs = list({one.hash: one for one in (*also_accepts, spec)}.values())
    oldest_first = [*(one for one in reversed(specs) if one.hash != spec.hash), spec]
    joins = [
        PlainJoin(
            one, also_accepts=specs, max_ahead_ms=max_ahead_ms, lateness_ms=lateness_ms, idle_delay_ms=idle_delay_ms
        )
        for one in oldest_first
    ]
    unusable = 0
    topics: dict[Kind, str] = {"features": features, "actions": actions}
    for kind, topic in topics.items():
        converters = [
            connected_converter(kind, one, sources, max_ahead_ms=max_ahead_ms, also_accepts=specs)
            for one in oldest_first
        ]
        # Partitions are merged, each in the order of its offsets; a request lies in one of them.
        for read in read_topic(kafka, topic):
            usable = False
            for join, converter in zip(joins, converters, strict=True):
                record = native_or_unusable(read, converter)
                usable |= join.add_record(
                    record.value,
                    record.key,
                    record.ingest_ms,
                    record.timestamp_ms,
                    topic=topic,
                    partition=record.partition,
                )
            unusable += not usable

    def blocks() -> Blocks:
        for record in read_topic(kafka, examples):
            try:
                yield record.partition, decode_as(ExampleBlock, record.value or b"")
            except DecodeError:
                yield record.partition, None

    joined = [join.result() for join in joins]
    if len(joined) > 1:
        report = audit_eras(joined, blocks, joins[-1].actions, unusable=unusable, allowed_late=allowed_late)
    else:
        report = audit_examples(
            joined[0], (block for _, block in blocks()), joins[0].actions, allowed_late=allowed_late
        )
    return report, joined[-1]
