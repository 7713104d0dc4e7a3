"""Topics are silent when nothing comes and everything is read, and never when that is not known."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from confluent_kafka import TopicPartition

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, KafkaSettingsError
from rillet.connectors.lag import Ends, TopicProgress
from rillet.connectors.silence import TopicSilence, TopicState


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.integration
def test_topics_are_silent_when_all_is_read_and_nothing_comes(broker: str, topics: Callable[..., str]) -> None:
    topic, group = topics("features", 2), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer, consumer = connection.producer({}), connection.consumer({"group.id": group})

    def send() -> None:
        producer.produce(topic, b"v", partition=1)
        assert producer.flush(10) == 0

    def read_up_to(offset: int) -> None:
        consumer.commit(offsets=[TopicPartition(topic, 1, offset)], asynchronous=False)

    send()
    silence = TopicSilence(broker, {topic: group}, idle_ms=400)
    silence.start()
    try:
        time.sleep(1.2)
        assert silence.quiet_ms() is None, "a record is not read"
        read_up_to(1)
        wait_for(lambda: (silence.quiet_ms() or 0) > 800)
        send()
        wait_for(lambda: silence.quiet_ms() is None)
        read_up_to(2)
        wait_for(lambda: silence.quiet_ms() is not None)
    finally:
        silence.close()
    consumer.close()


@pytest.mark.integration
def test_topics_are_not_silent_while_a_transaction_is_open(broker: str, topics: Callable[..., str]) -> None:
    topic, group = topics("features", 1), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer, consumer = connection.producer({"transactional.id": group}), connection.consumer({"group.id": group})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"v")
    producer.commit_transaction()
    consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    consumer.close()
    silence = TopicSilence(broker, {topic: group}, idle_ms=400)
    silence.start()
    try:
        wait_for(lambda: silence.quiet_ms() is not None)
        producer.begin_transaction()
        producer.produce(topic, b"v")
        assert producer.flush(10) == 0
        wait_for(lambda: silence.quiet_ms() is None)
        time.sleep(1)
        assert silence.quiet_ms() is None
    finally:
        silence.close()
    producer.abort_transaction()


class Lag:
    """Two topics of two partitions each, as the broker tells of them."""

    def __init__(self, *_: object, timeout_s: float = 0) -> None:
        self.away = False
        self.ends = {"features": {0: 5, 1: 0}, "actions": {0: 3, 1: 4}}
        self.positions = {topic: dict(ends) for topic, ends in self.ends.items()}

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def unread(self, ends: Ends) -> dict[str, Mapping[int, int]]:
        behind = {topic for (topic, number), end in ends.items() if self.positions[topic][number] < end}
        return {topic: self.positions[topic] for topic in behind}

    def progress(self) -> dict[str, TopicProgress]:
        if self.away:
            raise BrokerUnavailableError("no broker answers")
        return {
            topic: TopicProgress(dict(ends), dict(self.positions[topic]), ends == self.positions[topic])
            for topic, ends in self.ends.items()
        }


@pytest.fixture
def lag(monkeypatch: pytest.MonkeyPatch) -> Lag:
    lag = Lag()
    monkeypatch.setattr("rillet.connectors.silence.GroupLag", lambda *_, timeout_s: lag)
    return lag


@pytest.fixture
def silence(lag: Lag) -> Iterator[TopicSilence]:
    silence = TopicSilence("nowhere", {"features": "f", "actions": "a"}, idle_ms=80)
    silence.start()
    yield silence
    silence.close()


def moving(lag: Lag, condition: Callable[[], bool], topics: Sequence[str] = ("features",)) -> None:
    """Waits, while records come to one partition of the topics and are read."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        for topic in topics:
            lag.ends[topic][1] += 1
            lag.positions[topic] = dict(lag.ends[topic])
        time.sleep(0.005)


def test_what_a_broker_was_away_is_no_silence(lag: Lag, silence: TopicSilence) -> None:
    wait_for(lambda: silence.quiet_ms() is not None)
    lag.away = True
    wait_for(lambda: silence.quiet_ms() is None)
    time.sleep(0.3)
    back = time.monotonic()
    lag.away = False
    wait_for(lambda: silence.quiet_ms() is not None)
    quiet_ms = silence.quiet_ms() or 0
    # By the clock: on a busy machine any of these lines may take long.
    assert quiet_ms < 1000 * (time.monotonic() - back) + 50


def test_one_topic_is_silent_beside_another_until_something_new_of_it_is_read(lag: Lag, silence: TopicSilence) -> None:
    assert silence.silent_ms() == {}, "nothing is silent from the start"
    assert silence.holds()
    moving(lag, lambda: not silence.holds(), ("features", "actions"))
    moving(lag, lambda: silence.silent_ms().get("actions", 0) > 150)
    assert (set(silence.silent_ms()), silence.quiet_ms()) == ({"actions"}, None)
    lag.ends["actions"][1] += 1  # not read yet
    time.sleep(0.1)
    assert "actions" in silence.silent_ms()
    lag.ends["actions"][1] += 1
    lag.positions["actions"][1] += 1
    moving(lag, lambda: silence.silent_ms() == {})
    time.sleep(0.05)
    assert silence.holds()
    moving(lag, lambda: not silence.holds(), ("features", "actions"))


def test_a_topic_with_something_to_read_is_not_silent(lag: Lag, silence: TopicSilence) -> None:
    lag.positions["actions"][0] = 1
    wait_for(lambda: "features" in silence.silent_ms())
    time.sleep(0.1)
    assert set(silence.silent_ms()) == {"features"}
    lag.positions["actions"][0] = 3
    wait_for(lambda: set(silence.silent_ms()) == {"features", "actions"})


def test_topics_are_not_known_to_move_after_the_broker_was_away_until_they_do(lag: Lag, silence: TopicSilence) -> None:
    moving(lag, lambda: silence._found is not None)
    lag.away = True
    wait_for(lambda: set(silence.silent_ms()) == {"features", "actions"})
    lag.ends["features"][0] += 9  # sent when the broker was back, and not read yet
    lag.away = False
    time.sleep(0.1)
    assert set(silence.silent_ms()) == {"features", "actions"}
    moving(lag, lambda: set(silence.silent_ms()) == {"actions"})


def test_after_an_outage_a_topic_moves_once_each_partition_with_something_new_is_read(
    lag: Lag, silence: TopicSilence
) -> None:
    """One partition's backlog that is read first would take time past what lies on the other."""
    moving(lag, lambda: silence._found is not None)
    lag.away = True
    wait_for(lambda: "features" in silence.silent_ms())
    lag.ends["features"] = {number: end + 9 for number, end in lag.ends["features"].items()}
    lag.positions["features"][0] += 5
    lag.away = False
    time.sleep(0.1)
    assert "features" in silence.silent_ms()
    lag.positions["features"][1] += 1
    wait_for(lambda: "features" not in silence.silent_ms())
    assert silence.holds()


def progress(end: tuple[int, int], position: tuple[int, int]) -> TopicProgress:
    """Of a topic of two partitions."""
    return TopicProgress(dict(enumerate(end)), dict(enumerate(position)), position >= end)


@pytest.mark.parametrize("known_before", [True, False])
def test_after_an_outage_a_partition_of_which_nothing_has_come_yet_is_waited_for(known_before: bool) -> None:
    """A broker that was killed leads its partitions one after the other, and producers send again after a pause."""
    topic = TopicState(0.0, idle_s=10.0)
    if known_before:
        topic.check(progress((5, 5), (5, 5)), 0.0)
    topic.lose()
    assert topic.silent
    # The first partition moves at once. All that has come is read, and more comes, but nothing to the second one.
    for second in range(1, 8):
        topic.check(progress((9 + second, 5), (9 + second, 5)), float(second))
        topic.check(progress((9 + second, 5), (9 + second, 5)), second + 0.5)
    assert (topic.silent, topic.behind) == (False, True)
    for second in range(8, 30):
        topic.check(progress((50 + second, 14), (49 + second, 5)), float(second), unread=bool(topic.awaited))
    assert (topic.awaited, topic.behind) == ({0: 61, 1: 14}, True)
    topic.check(progress((99, 20), (98, 15)), 30.0)
    assert not topic.behind


#: of a reader that goes on from a state, before its first checkpoint
PUT_BACK = TopicProgress({0: 50, 1: 40}, {0: 0, 1: 0}, all_read=False, begun=False)


def test_at_a_start_time_is_held_until_the_topic_is_known_to_be_silent() -> None:
    """A state that takes a minute to be restored leaves its sources idle before the first check: one partition would close windows."""
    topic = TopicState(0.0, idle_s=10.0)
    for found in (PUT_BACK, progress((50, 40), (50, 40))):  # by its first checkpoint it stands where its state says
        assert topic.holds
        topic.check(found, 2.5)
        assert (topic.silent, topic.holds) == (False, True)
    topic.check(progress((50, 40), (50, 40)), 7.5)
    assert (topic.silent, topic.holds) == (True, True)


def test_a_topic_that_was_read_at_the_start_and_moves_is_behind_as_after_silence() -> None:
    topic = TopicState(0.0, idle_s=10.0)
    topic.check(progress((50, 40), (50, 40)), 2.5)
    topic.check(progress((59, 49), (55, 40)), 5.0)
    assert (topic.behind, topic.holds) == (False, True), "nothing is read of the second partition"
    topic.check(progress((59, 49), (59, 45)), 7.5)
    assert (topic.behind, topic.holds) == (True, True)
    topic.check(progress((59, 49), (59, 49)), 8.5)
    assert not topic.holds


def test_at_a_start_on_a_backlog_time_is_held_until_each_partition_is_read_from() -> None:
    topic = TopicState(0.0, idle_s=10.0)
    for second, position in enumerate((0, 0, 10, 10), start=1):
        found = progress((100, 100 + second), (position, position))
        topic.check(found._replace(begun=position > 0), float(second))
        assert topic.holds
    topic.check(progress((100, 106), (20, 20)), 5.0)
    assert not topic.holds
    assert not TopicState(0.0, idle_s=10.0, known=True).holds


def test_where_traffic_is_dense_a_topic_that_was_silent_is_behind_until_what_came_in_the_idle_time_is_read() -> None:
    topic = TopicState(0.0, idle_s=10.0)
    for second in range(7):
        topic.check(progress((5, 5), (5, 5)), float(second))
    assert topic.silent
    for second in range(7, 18):
        assert not topic.awaited
        topic.check(progress((50 + second, 5), (49 + second, 5)), float(second))
    assert (topic.awaited, topic.behind) == ({0: 67, 1: 5}, True)
    topic.check(progress((98, 20), (97, 5)), 18.0, unread=False)
    assert not topic.behind


def test_an_outage_after_an_outage_is_waited_for_as_the_first_one() -> None:
    """Brokers are restarted one after the other: what was to be read after the first is read, and says nothing of the second."""
    topic = TopicState(0.0, idle_s=10.0)
    topic.check(progress((5, 5), (5, 5)), 0.0)
    topic.lose()
    for second in range(1, 13):
        topic.check(progress((9 + second,) * 2, (8 + second,) * 2), float(second), unread=bool(topic.awaited))
    assert topic.awaited
    topic.lose()
    topic.check(progress((22, 21), (21, 20)), 14.0)
    for tenths in range(150, 240, 5):  # nothing has come to the second partition yet
        topic.check(progress((25, 21), (25, 21)), tenths / 10)
        assert topic.silent or topic.behind


def test_after_an_outage_a_partition_that_ends_with_a_transaction_and_stays_as_it_was_holds_nothing() -> None:
    topic = TopicState(0.0, idle_s=10.0)
    topic.check(TopicProgress({0: 10, 1: 6}, {0: 9, 1: 5}, all_read=False), 0.0)
    topic.lose()
    topic.check(TopicProgress({0: 19, 1: 6}, {0: 12, 1: 5}, all_read=False), 1.0)
    assert (topic.silent, topic.behind) == (False, True)


def test_records_of_a_partition_that_was_added_hold_time_until_the_reader_has_found_it_and_read_what_lies_there() -> (
    None
):
    topic = TopicState(0.0, idle_s=10.0, known=True)
    topic.check(progress((5, 0), (5, 0)), 0.0)
    topic.check(progress((9, 1), (5, 0)), 1.0)
    assert not topic.behind, "a partition without records that was there at the start is read from"
    topic.check(TopicProgress({0: 9, 1: 3, 2: 0}, {0: 9, 1: 3, 2: 0}, all_read=True), 2.0)
    assert not topic.behind
    for second in range(3, 60):
        topic.check(TopicProgress({0: 9 + second, 1: 3, 2: 7}, {0: 9, 1: 3, 2: 0}, False), second, unread=second > 3)
        assert (topic.behind, topic.awaited) == (True, {0: 12, 1: 3, 2: 7})
    topic.check(TopicProgress({0: 90, 1: 3, 2: 700}, {0: 89, 1: 3, 2: 8}, False), 60.0, unread=False)
    assert (topic.behind, topic.awaited) == (True, {0: 90, 1: 3, 2: 700})
    topic.check(TopicProgress({0: 99, 1: 3, 2: 720}, {0: 95, 1: 3, 2: 700}, False), 61.0, unread=False)
    assert not topic.behind


def test_a_client_that_cannot_be_made_is_told_to_who_starts_it() -> None:
    kafka = KafkaConnection("127.0.0.1:1", {"security.protocol": "ssl", "ssl.ca.location": "/nowhere/ca.pem"})
    with pytest.raises(KafkaSettingsError, match=r"ssl\.ca\.location"):
        TopicSilence(kafka, {"features": "g"}, idle_ms=400).start()


def test_without_a_broker_nothing_is_known(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.connectors.silence._SHORTEST_TIMEOUT_S", 0.2)
    silence = TopicSilence("127.0.0.1:1", {"features": "g"}, idle_ms=10)
    silence.start()
    try:
        wait_for(lambda: "whether the topics are silent is not known" in caplog.text)
        time.sleep(0.05)  # longer than the idle time
        assert silence.quiet_ms() is None
    finally:
        silence.close()
