"""One lifecycle for everything that holds a Kafka client: start, use, flush, close; no broker is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rillet.connectors.dead_letters import DeadLetterProducer, letter_for
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.lag import GroupLag
from rillet.connectors.producers import EventProducer
from rillet.schemas import ActionEvent, ClosedError, RecordError, Sink, Source, Stage
from rillet.trainer import RawRecord

NOWHERE = "127.0.0.1:1"
LETTER = letter_for(RecordError("r"), "t", 0, 0, key=None, value=b"v")


def events() -> tuple[Sink[ActionEvent], Callable[[], object]]:
    made = EventProducer(NOWHERE, "actions")
    return made, lambda: made.submit(ActionEvent("r", 1, 1, "like"))


def letters() -> tuple[Stage, Callable[[], object]]:
    made = DeadLetterProducer(NOWHERE, "dead")
    return made, lambda: made.submit(LETTER)


def deltas() -> tuple[Stage, Callable[[], object]]:
    made = KafkaDeltaLog(NOWHERE, "deltas")
    return made, lambda: made.append(b"k", b"v")


def examples() -> tuple[Source[RawRecord], Callable[[], object]]:
    made = KafkaExampleSource(NOWHERE, "examples", {}, until_latest=False)
    return made, lambda: made.poll(1, 0.1)


Make = Callable[[], tuple[Stage, Callable[[], object]]]
EVERY = pytest.mark.parametrize("make", [events, letters, deltas, examples])


@EVERY
def test_one_that_was_never_started_can_be_flushed_and_closed_twice(make: Make) -> None:
    stage, use = make()
    stage.close()
    stage.close()
    with pytest.raises(ClosedError):
        use()


@pytest.mark.parametrize("make", [events, letters, deltas])
def test_closing_never_waits_for_a_broker_that_is_away(make: Make) -> None:
    stage, use = make()
    stage.start()
    use()
    stage.close()
    stage.close()
    with pytest.raises(ClosedError):
        use()


def test_the_lag_reader_too() -> None:
    lag = GroupLag(NOWHERE, {"features": "g"})
    lag.start()
    lag.close()
    lag.close()
    with pytest.raises(ClosedError):
        lag.records()
