"""What the joiner says of counts that only a mistake explains: once, with advice, and again when it has changed."""

from __future__ import annotations

import pytest

from rillet.joiner import Alarms, Counters, JoinerConfig
from tests.joiner.support import SPEC


def counts(dead_letters: int = 0, waiting_actions: int | None = None, **named: int) -> dict[str, int]:
    """Actions that are not matched wait, unless it is said how many do."""
    found = Counters(**named)
    waiting = found.unmatched_actions - found.matched_later if waiting_actions is None else waiting_actions
    return found.as_dict() | {"dead_letters": dead_letters, "waiting_actions": waiting}


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alarms(clock: Clock) -> Alarms:
    return Alarms(SPEC, JoinerConfig(), clock)


def test_a_name_that_no_task_asks_for_is_told_once_with_the_name_that_is_meant(alarms: Alarms, clock: Clock) -> None:
    (line,) = alarms.judge(counts(actions=4_279, unknown_actions=4_151), {"WATCH": 4_151}, {})
    assert line == "97 % of 4,279 actions are named 'WATCH', which no task asks for; did you mean 'watch'?"
    assert alarms.judge(counts(actions=6_000, unknown_actions=5_872), {"WATCH": 5_872}, {}) == []
    clock.now_s += 300
    (line,) = alarms.judge(counts(actions=7_000, unknown_actions=6_872), {"WATCH": 5_872, "zoom": 1_000}, {})
    assert (
        line
        == "100 % of 1,000 actions are named 'zoom', which no task asks for; the feature spec asks for 'like', 'watch'"
    )
    clock.now_s += 300
    (line,) = alarms.judge(counts(actions=8_000, unknown_actions=6_872), {"WATCH": 5_872, "zoom": 1_000}, {})
    assert line.startswith("well again: 0 % of 1,000 actions")


def test_two_wrong_names_that_come_in_turn_are_told_of_once(alarms: Alarms, clock: Clock) -> None:
    """Which of the two is more frequent changes from look to look, and is no news."""
    total, of, lines = 0, {"zoom": 0, "pan": 0}, list[str]()
    for look in range(12):
        for name in of:
            of[name] += 60 if (look % 2 == 0) == (name == "zoom") else 40
        total += 100
        lines += alarms.judge(counts(actions=total, unknown_actions=total), of, {})
        clock.now_s += 300
    assert len(lines) == 1, lines
    assert "have names that no task asks for ('zoom', 'pan' and others)" in lines[0]


def test_few_records_and_small_shares_are_not_judged(alarms: Alarms) -> None:
    assert alarms.judge(counts(actions=49, unknown_actions=49), {"zoom": 49}, {}) == []
    assert alarms.judge(counts(actions=1_000, unknown_actions=300), {"zoom": 300}, {}) == []


def test_a_mistake_shows_beside_a_long_good_past(alarms: Alarms) -> None:
    assert alarms.judge(counts(actions=10**6, positives=10**6), {}, {}) == []
    (line,) = alarms.judge(counts(actions=10**6 + 60, positives=10**6, unknown_actions=60), {"zoom": 60}, {})
    assert line.startswith("100 % of 60 actions are named 'zoom'")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (
            "orphan_actions",
            "found no feature event of their request within action_wait_ms (600 s): are both topics keyed",
        ),
        (
            "unknown_impressions",
            "are on impressions that their requests do not have or that were not exposed: does impression_id",
        ),
        ("outside_window", "come later than the label window allows: is window_ms"),
        ("early_actions", "happened before their impressions by more than early_ms"),
        ("late_actions", "came after their windows were closed"),
    ],
)
def test_actions_that_make_no_row_are_told_with_advice(alarms: Alarms, name: str, advice: str) -> None:
    assert alarms.judge(counts(), {}, {}, 0) == []
    (line,) = alarms.judge(counts(actions=100, positives=20, **{name: 80}), {}, {}, 700_000)
    assert line.startswith(f"80 % of 100 actions {advice}")


def test_orphans_are_judged_when_they_are_given_up_though_no_action_comes_any_more(alarms: Alarms) -> None:
    assert alarms.judge(counts(actions=400), {}, {}, 0) == []
    (line,) = alarms.judge(counts(actions=400, orphan_actions=400), {}, {}, 637_500)
    assert line.startswith("100 % of 400 actions found no feature event")


def test_orphans_that_are_given_up_together_are_no_larger_share_for_it(clock: Clock) -> None:
    """Two in a hundred, of slices of 270 s."""
    alarms = Alarms(SPEC, JoinerConfig(slice_ms=270_000), clock)
    for second in range(0, 3_600, 2):
        clock.now_s += 2
        given_up = 20 * (second // 270 * 270) // 50
        found = counts(actions=20 * second, positives=20 * second * 98 // 100, orphan_actions=given_up)
        assert alarms.judge(found, {}, {}, 1_700_000_000_000 + 1_000 * second) == []


def test_parts_are_never_more_than_the_whole(alarms: Alarms) -> None:
    (line,) = alarms.judge(counts(actions=100, unknown_actions=104), {"zoom": 104}, {})
    assert line.startswith("100 % of 100 actions")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (
            "SpecMismatchError",
            f"were written under another feature spec than test {SPEC.hash:#x}: deploy the same spec",
        ),
        ("TimeUnitError", "have event times in another unit than milliseconds"),
        ("DecodeError", "are no records of a known schema"),
        ("RecordError", "cannot be used: dead letters say why"),
    ],
)
def test_refused_records_are_told_with_the_reason(alarms: Alarms, clock: Clock, kind: str, advice: str) -> None:
    (line,) = alarms.judge(counts(dead_letters=30, features=70), {}, {kind: 30})
    assert line.startswith(f"30 of 100 records, now dead letters, {advice}")
    assert alarms.judge(counts(dead_letters=70, features=130), {}, {kind: 70}) == []
    clock.now_s += 300
    (line,) = alarms.judge(counts(dead_letters=70, features=230), {}, {kind: 70})
    assert line.startswith("well again: 0 of 100 records")


def test_ten_records_of_another_spec_among_many_are_told_and_ten_that_are_damaged_are_not(alarms: Alarms) -> None:
    refused = {"SpecMismatchError": 9, "DecodeError": 9}
    assert alarms.judge(counts(dead_letters=18, features=982), {}, refused) == []
    refused = {"SpecMismatchError": 10, "DecodeError": 10}
    (line,) = alarms.judge(counts(dead_letters=20, features=1_980), {}, refused)
    assert line.startswith("10 of 2,000 records, now dead letters, were written under another feature spec")


def test_records_that_are_refused_are_told_from_ten_on_and_again_whenever_they_have_grown_tenfold(
    alarms: Alarms, clock: Clock
) -> None:
    """The first line is written within seconds of the mistake, and says nothing of how much of the input it concerns."""
    lines = []
    for features, bad in ((258, 1), (300, 9), (320, 10), (400, 10), (600, 99), (630, 120), (900, 585), (901, 1_250)):
        clock.now_s += 2
        lines += alarms.judge(counts(features=features, dead_letters=bad), {}, {"TimeUnitError": bad})
    assert [line.partition(" records, now dead letters, have event times")[0] for line in lines] == [
        "10 of 330",
        "120 of 750",
        "1,250 of 2,151",
    ]


def test_a_share_of_damaged_records_that_is_bad_is_told_once_ten_of_them_have_come(alarms: Alarms) -> None:
    assert alarms.judge(counts(features=7, dead_letters=3), {}, {"DecodeError": 3}) == []
    assert alarms.judge(counts(features=14, dead_letters=6), {}, {"DecodeError": 6}) == []
    (line,) = alarms.judge(counts(features=30, dead_letters=11), {}, {"DecodeError": 11})
    assert line.startswith("11 of 41 records, now dead letters, are no records of a known schema")


def test_few_damaged_records_are_forgotten_once_their_share_is_small(alarms: Alarms) -> None:
    assert alarms.judge(counts(features=7, dead_letters=3), {}, {"DecodeError": 3}) == []
    assert alarms.judge(counts(features=1_007, dead_letters=4), {}, {"DecodeError": 4}) == []
    assert alarms.judge(counts(features=1_010, dead_letters=12), {}, {"DecodeError": 12}) == []


def test_a_bad_record_now_and_then_is_told_by_its_growth_alone(alarms: Alarms, clock: Clock) -> None:
    lines = []
    for second in range(0, 3_600, 2):
        clock.now_s += 2
        bad = second // 5
        found = counts(features=50 * second, actions=50 * second, dead_letters=bad)
        lines += alarms.judge(found, {}, {"SpecMismatchError": bad})
    assert [line.partition(" of ")[0] for line in lines] == ["10", "100"], "of 719"


def test_request_ids_that_come_again_are_told(alarms: Alarms) -> None:
    (line,) = alarms.judge(counts(features=10, duplicate_features=90), {}, {})
    assert line.startswith("90 % of 100 feature events have the request id of an earlier one")


def test_counts_that_were_not_read_at_one_moment_make_no_share_above_all(alarms: Alarms) -> None:
    (line,) = alarms.judge(counts(actions=54, unknown_actions=200), {"WATCH": 200}, {})
    assert line.startswith("100 % of 54 actions are named 'WATCH'")
    # What was ahead is counted with the actions that it belongs to.
    assert alarms.judge(counts(actions=200, unknown_actions=200), {"WATCH": 200}, {}) == []
    assert alarms.judge(counts(actions=300, unknown_actions=200), {"WATCH": 200}, {}) == []


def test_actions_that_wait_for_requests_that_do_not_come_are_told_before_they_are_given_up(
    alarms: Alarms, clock: Clock
) -> None:
    lines = []
    for second in range(0, 70, 2):
        clock.now_s += 2
        found = counts(features=10 * second, actions=10 * second, unmatched_actions=9 * second)
        lines += alarms.judge(found, {}, {}, 0)
    (line,) = lines
    assert line == (
        "90 % of 600 actions wait for feature events of their requests that have not come: are request ids the same on"
        " both topics?"
    )
    clock.now_s += 300
    (line,) = alarms.judge(counts(features=4_000, actions=4_000, unmatched_actions=612), {}, {}, 0)
    assert line.startswith("well again: 2 % of 3,400 actions wait")


def test_actions_that_come_a_little_before_their_feature_events_are_no_matter(alarms: Alarms, clock: Clock) -> None:
    for second in range(0, 600, 2):
        clock.now_s += 2
        found = counts(features=second, actions=second, unmatched_actions=second, matched_later=max(0, second - 20))
        assert alarms.judge(found, {}, {}, 0) == []


def test_a_task_whose_actions_lack_the_value_that_it_asks_for_is_told_of(alarms: Alarms, clock: Clock) -> None:
    found = counts(features=1_000, actions=9_000, positives=8_000, incomplete_actions=1_000)
    (line,) = alarms.judge(found, {}, {}, valued={"watch": 5, "buy": 400}, valueless={"watch": 195, "buy": 500})
    assert line == (
        "98 % of 200 actions on task watch have no value, which its at_least asks for: does [sources.actions] value say where"
        " it lies, and do producers send it?"
    )
    clock.now_s += 100
    (line,) = alarms.judge(found, {}, {}, valued={"watch": 105, "buy": 400}, valueless={"watch": 195, "buy": 600})
    assert line.startswith("100 % of 100 actions on task buy"), "of what has come since"
    clock.now_s += 300
    (line,) = alarms.judge(found, {}, {}, valued={"watch": 205, "buy": 400}, valueless={"watch": 195, "buy": 600})
    assert line.startswith("well again: 0 % of 100 actions on task watch have no value")


def test_few_actions_without_a_value_are_not_judged(alarms: Alarms) -> None:
    assert alarms.judge(counts(), {}, {}, valued={}, valueless={"watch": 49}) == []


def test_actions_that_were_given_up_are_not_said_to_wait(alarms: Alarms, clock: Clock) -> None:
    """After an outage a backlog comes whose pages are lost: its actions are given up as the watermark passes them."""
    assert alarms.judge(counts(), {}, {}, 0) == []
    clock.now_s += 60
    outage = counts(features=60, actions=100, positives=42, unmatched_actions=58, orphan_actions=58, waiting_actions=0)
    (line,) = alarms.judge(outage, {}, {}, 700_000)
    assert line.startswith("58 % of 100 actions found no feature event of their request")


def test_without_any_feature_event_the_advice_is_another(alarms: Alarms, clock: Clock) -> None:
    assert alarms.judge(counts(), {}, {}, 0) == []
    clock.now_s += 60
    (line,) = alarms.judge(counts(actions=80, unmatched_actions=80), {}, {}, 0)
    assert line.startswith("100 % of 80 actions wait for feature events of their requests, and none has come: does")
