"""Facts of the services from their metrics: what a service does not tell is not known, which is not 0."""

from __future__ import annotations

from rillet.inspection.measured import STALE_MS, joiner_facts, quantile, replica_facts, trainer_facts
from rillet.inspection.scrape import Scrape, parse_metrics

NOW_MS = 1_700_000_000_000


def metrics(*lines: str) -> Scrape:
    """Samples as a service tells them; counters end in _total, the others are gauges."""
    names = dict.fromkeys(line.partition("{")[0].partition(" ")[0] for line in lines)
    text = []
    for name in names:
        kind = "counter" if name.endswith("_total") else "gauge"
        text += [f"# TYPE {name} {kind}", *(line for line in lines if line.startswith((f"{name} ", f"{name}{{")))]
    return parse_metrics("\n".join(text) + "\n")


def test_of_a_service_that_tells_nothing_nothing_is_known() -> None:
    assert joiner_facts(Scrape()) is None
    assert trainer_facts(Scrape()) is None
    assert replica_facts(Scrape(), NOW_MS) is None


def test_the_join_rate_is_positives_of_every_kind_over_the_newest_actions() -> None:
    facts = joiner_facts(
        metrics(
            "rillet_joiner_actions_total 90000",
            "rillet_joiner_corrections_total 0",
            "rillet_joiner_orphan_actions_total 5",
            'rillet_joiner_unknown_actions_total{action="CLICK"} 7',
            'rillet_joiner_unknown_actions_total{action="open"} 0',
            'rillet_joiner_recent{count="actions"} 200',
            'rillet_joiner_recent{count="corrections"} 30',
            'rillet_joiner_recent{count="late_positives"} 10',
            'rillet_joiner_recent_unknown_actions{action="CLICK"} 3',
            'rillet_joiner_recent_unknown_actions{action="open"} 0',
            'rillet_joiner_recent_valued_actions{task="watch"} 8',
            'rillet_joiner_recent_valueless_actions{task="watch"} 12',
            'rillet_joiner_recent_lacking_pages{feature="country"} 2',
            'rillet_joiner_recent_lacking_pages{feature="city"} 0',
            "rillet_joiner_open_requests 12",
            "rillet_joiner_waiting_actions 4",
            "rillet_joiner_oldest_waiting_seconds 1700000000.5",
        )
    )
    assert facts is not None
    assert facts.join_rate == 0.2
    assert facts.counts["orphan_actions"] == 5
    assert (facts.unknown_actions, facts.counts["unknown_actions"]) == ({"CLICK": 7}, 7)
    assert (facts.recent["corrections"], facts.recent_unknown) == (30, {"CLICK": 3})
    assert facts.recent_lacking == {"country": 2}
    assert (facts.recent_valued, facts.recent_valueless) == ({"watch": 8}, {"watch": 12})
    assert facts.open_requests == 12
    assert facts.next_close_ms is None, "no window is open"
    assert (facts.waiting, facts.oldest_waiting_ms) == (4, NOW_MS + 500)


def test_without_actions_there_is_no_join_rate() -> None:
    facts = joiner_facts(metrics("rillet_joiner_actions_total 9", 'rillet_joiner_recent{count="actions"} 0'))
    assert facts is not None
    assert facts.join_rate is None


def quality(*lines: str) -> object:
    told = [
        f"rillet_train_quality_{line.replace(' ', '{task=' + chr(34) + 'watch' + chr(34) + '} ')}" for line in lines
    ]
    facts = trainer_facts(metrics("rillet_train_rows_total 10", *told))
    assert facts is not None
    return facts.quality.get("watch")


def test_quality_is_warming_up_until_the_first_windows_close() -> None:
    facts = quality("left_out_rows 0", "first_known_timestamp_seconds 1700000100", "auc NaN")
    assert facts is not None
    assert (facts.state, facts.first_known_ms, facts.auc) == ("warming up", NOW_MS + 100_000, None)  # type: ignore[attr-defined]


def test_quality_of_too_few_rows_has_counts_and_no_figures() -> None:
    facts = quality(
        "left_out_rows 0", "end_timestamp_seconds 1700000000", "auc NaN", "calibration NaN", "rows 40", "positives 3"
    )
    assert (facts.state, facts.auc, facts.rows, facts.positives) == ("too few rows", None, 40, 3)  # type: ignore[attr-defined]


def test_known_quality_has_the_time_up_to_which_it_is_known() -> None:
    facts = quality(
        "left_out_rows 0",
        "end_timestamp_seconds 1700000000",
        "first_known_timestamp_seconds NaN",
        "auc 0.75",
        "calibration 1.25",
        "rows 4000",
        "positives 300",
    )
    assert (facts.state, facts.auc, facts.calibration, facts.known_ms) == ("known", 0.75, 1.25, NOW_MS)  # type: ignore[attr-defined]


def test_without_rows_quality_is_unknown() -> None:
    assert quality("left_out_rows 0").state == "unknown"  # type: ignore[attr-defined]


def test_quality_of_rows_without_served_logits_is_unknown_for_that_reason() -> None:
    assert quality("left_out_rows 0", "unscored_rows 40").state == "no scores"  # type: ignore[attr-defined]
    warming = quality("left_out_rows 0", "unscored_rows 40", "first_known_timestamp_seconds 1700000100")
    assert warming.state == "warming up", "by now there are some"  # type: ignore[attr-defined]


def test_a_loss_and_a_lag_that_are_nan_are_not_known() -> None:
    facts = trainer_facts(metrics("rillet_train_rows_total 0", "rillet_train_loss NaN", "rillet_train_lag_records NaN"))
    assert facts is not None
    assert (facts.rows, facts.loss, facts.lag_records, facts.newest_event_ms) == (0, None, None, None)


def test_failures_to_publish_that_one_publication_has_made_good_are_no_matter() -> None:
    facts = trainer_facts(
        metrics(
            "rillet_train_rows_total 9",
            "rillet_train_publish_failures_total 5",
            "rillet_train_publish_failures_in_a_row 0",
        )
    )
    assert facts is not None
    assert facts.publish_failures == 0


def test_updates_are_stale_when_the_log_has_not_answered_for_long() -> None:
    def stale(now_ms: int, ready: int = 1) -> bool:
        read = metrics(f"rillet_replica_ready {ready}", "rillet_replica_reached_timestamp_seconds 1700000000")
        facts = replica_facts(read, now_ms)
        assert facts is not None
        return facts.stale

    assert not stale(NOW_MS + STALE_MS)
    assert stale(NOW_MS + STALE_MS + 1)
    assert not stale(NOW_MS + STALE_MS + 1, ready=0), "one that waits for its first base has nothing to be stale"


def test_a_quantile_above_all_bounds_is_not_known() -> None:
    bounds = [1.0, 2.0, float("inf")]
    assert quantile(bounds, [0.0, 10.0, 10.0], 0.5) == 1.5
    assert quantile(bounds, [0.0, 1.0, 10.0], 0.99) is None
