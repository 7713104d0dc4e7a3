"""What a change of the spec is called, and which ones are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rillet.schemas import Cross, DenseFeature, FeatureSpec, History, Slot, Task, compare
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.negative_rates import RateBySlot, RateClass
from rillet.schemas.spec_changes import conflicts
from tests.schemas.specs import BUY, CHANGED, CLICK, FILM, GENRES, OLD, RECENT, USER


def told(old: FeatureSpec, new: FeatureSpec) -> list[str]:
    return [str(change) for change in compare(old, new).changes]


def test_equal_specs_have_no_differences() -> None:
    assert compare(OLD, replace(OLD)).changes == ()


@pytest.mark.parametrize("change", CHANGED)
def test_added_removed_and_tuned_entries_are_compatible_both_ways(change: str) -> None:
    there, back = compare(OLD, CHANGED[change]), compare(CHANGED[change], OLD)
    assert there.changes
    assert back.changes
    assert not there.incompatible
    assert not back.incompatible
    assert not conflicts([OLD, CHANGED[change]])


def test_each_difference_is_named_once_with_its_path() -> None:
    assert told(OLD, CHANGED["everything"]) == [
        "spec.name: films, now films 2",
        "spec.sampling_seed: 0, now 9",
        "context.user: removed (slot 1)",
        "context.recent.max_values: 4, now 3",
        "context.device: added (slot 3, token)",
        "item.film: removed (slot 16)",
        "item.shop: added (slot 18, id)",
        "dense.price.transform: none, now log1p",
        "dense.age: removed",
        "dense.size: added",
        "tasks.click.window_ms: 10000, now 20000",
        "tasks.buy: removed",
        "tasks.like: added (action like)",
    ]


def test_another_order_of_columns_is_told() -> None:
    for change, path in (
        ("slots in another order", ["context: in another order", "item: in another order"]),
        ("dense features in another order", ["dense: in another order"]),
        ("tasks in another order", ["tasks: in another order"]),
    ):
        assert told(OLD, CHANGED[change]) == path


def test_crosses_are_compared() -> None:
    crossed = replace(OLD, crosses=(Cross("recent_film", 40, ("recent", "film"), 4),))
    assert told(OLD, crossed) == ["cross.recent_film: added (recent_film = recent x film (slot 40, at most 4))"]
    assert told(crossed, OLD) == ["cross.recent_film: removed"]


def test_a_cross_that_goes_on_is_not_told_as_removed_and_added() -> None:
    first, second = Cross("recent_film", 40, ("recent", "film"), 4), Cross("user_film", 41, ("user", "film"), 1)
    old = replace(OLD, crosses=(first, second))
    (change,) = compare(old, replace(OLD, crosses=(replace(first, max_values=2), second))).changes
    assert (str(change), change.trainer) == ("cross.recent_film.max_values: 4, now 2", "goes on")
    assert told(old, replace(OLD, crosses=(second, first))) == ["cross: in another order"]


def test_what_becomes_of_values_and_of_quality_is_told() -> None:
    (fewer,) = compare(OLD, replace(OLD, item=(FILM, replace(GENRES, max_values=1)))).changes
    assert fewer.joiner == "goes on; values beyond it are left out, and where there is none it has the missing value"
    (window,) = compare(OLD, replace(OLD, tasks=(replace(CLICK, window_ms=5), BUY))).changes
    (rate,) = compare(OLD, replace(OLD, tasks=(replace(CLICK, negative_rate=0.5), BUY))).changes
    assert (window.trainer, rate.trainer) == ("goes on; its quality as served is told anew", "goes on")


def test_actions_that_are_added_and_what_they_come_to_are_changes_to_live_with() -> None:
    both = replace(CLICK, action=("click", "tap"))
    assert told(OLD, replace(OLD, tasks=(both, BUY))) == ["tasks.click.action: click, now click or tap"]
    twice = replace(OLD, tasks=(replace(CLICK, at_least=AtLeast("count", 2)), BUY))
    (change,) = compare(OLD, twice).changes
    assert str(change) == "tasks.click.at_least: none, now count of at least 2"
    assert (change.compatible, change.trainer) == (True, "goes on; its quality as served is told anew")


def test_rates_by_slot_are_compared_value_by_value() -> None:
    def by_film(*classes: tuple[tuple[int, ...], float]) -> FeatureSpec:
        rates = RateBySlot("film", tuple(RateClass(values, rate) for values, rate in classes))
        return replace(OLD, tasks=(replace(CLICK, rate_by_slot=rates), BUY))

    old = by_film(((1, 2), 0.1), ((3,), 0.2))
    path = "tasks.click.rate_by_slot: "
    assert told(old, by_film(((1, 4), 0.1), ((3,), 0.3))) == [
        f"{path}by film: 2 0.1, now negative_rate; 3 0.2, now 0.3; 4 negative_rate, now 0.1"
    ]
    assert told(old, by_film(((3,), 0.2), ((2, 1), 0.1))) == [f"{path}classes in another form, rates as before"]
    many = by_film((tuple(range(10, 18)), 0.5))
    assert told(old, many)[0].endswith("11 negative_rate, now 0.5; and 6 more")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            replace(OLD, item=(replace(FILM, name="movie"), GENRES)),
            "slot 16 was item.film (kind id), now item.movie (kind id): take a number that was never used",
        ),
        (replace(OLD, item=(replace(FILM, kind="token"), GENRES)), "slot 16 was kind id, now kind token"),
        (
            replace(OLD, context=(RECENT,), item=(replace(USER), FILM, GENRES)),
            "slot 1 was context.user (kind id), now item.user (kind id)",
        ),
        (
            replace(OLD, crosses=(Cross("pair", 2, ("user", "film"), 1),), context=(USER,)),
            "slot 2 was context.recent (kind id), now cross.pair (pairs of user and film)",
        ),
        (
            replace(OLD, tasks=(replace(CLICK, action="tap"), BUY)),
            "tasks.click: action was click, now tap: that is another label, give it another name",
        ),
    ],
)
def test_another_meaning_of_a_number_or_a_task_is_refused(new: FeatureSpec, message: str) -> None:
    diff = compare(OLD, new)
    assert [message in str(change) for change in diff.incompatible] == [True]
    # It is told once, not as removed and added besides.
    assert len(diff.changes) == 1


def test_other_bins_are_another_meaning() -> None:
    age = Slot("age", 20, "number", bins=(1.0, 2.0))
    old, new = (replace(OLD, item=(slot, *OLD.item)) for slot in (age, replace(age, bins=(1.0, 3.0))))
    assert "bins [1.0, 2.0], now kind number, bins [1.0, 3.0]" in str(compare(old, new).incompatible[0])


def test_a_history_of_other_values_is_another_meaning_and_another_age_is_not() -> None:
    seen = Slot("seen", 5, "history", 10, history=History("film", "watch", "user"))
    old = replace(OLD, context=(USER, seen))
    of_genres = replace(seen, history=History("genres", "watch", "user"))
    assert compare(old, replace(OLD, context=(USER, of_genres))).incompatible
    younger = replace(seen, history=History("film", "watch", "user", 1_000))
    assert told(old, replace(OLD, context=(USER, younger))) == ["context.seen.max_age_ms: 0, now 1000"]


def test_a_history_of_other_bins_is_another_meaning_whatever_the_number_of_their_slot() -> None:
    price, paid = Slot("price", 20, "number", bins=(1.0, 2.0)), Slot("paid", 6, "history", 3)
    paid = replace(paid, history=History("price", "buy", "user"))
    old = replace(OLD, context=(USER, paid), item=(FILM, price))
    new = replace(old, item=(FILM, replace(price, slot=21, bins=(10.0, 20.0))))
    assert [change.path for change in compare(old, new).incompatible] == ["context.paid"]


def test_a_number_that_comes_back_with_another_name_is_refused_among_all_specs() -> None:
    without = replace(OLD, item=(GENRES,))
    again = replace(OLD, item=(Slot("shop", 16, "id"), GENRES))
    assert not conflicts([OLD, without])
    assert not conflicts([without, again])
    assert [change.path for change in conflicts([again, without, OLD])] == ["item.shop"]


def test_the_json_form_has_everything() -> None:
    found = compare(OLD, replace(OLD, tasks=(*OLD.tasks, Task("like", "like", 1)), dense=(DenseFeature("price"),)))
    body = found.as_dict()
    assert body["compatible"] is True
    assert [change["path"] for change in body["changes"]] == ["dense.age", "tasks.like"]
    assert all(change["joiner"] and change["trainer"] and change["serving"] for change in body["changes"])
