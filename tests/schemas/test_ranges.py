"""What is out of its range is refused, the name and the value first; infinity only where it is asked for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rillet.schemas.ranges import check_above_zero, check_at_most, check_finite, check_not_negative

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_above_zero, [1, 0.1, INF], {0: "0 is not above 0", -1: "-1 is not above 0", NAN: "nan is not above 0"}),
        (check_not_negative, [0, 1, INF], {-0.5: "-0.5 is below 0", NAN: "nan is below 0"}),
        (check_finite, [-1, 0, 1], {INF: "inf is not finite", -INF: "-inf is not finite", NAN: "nan is not finite"}),
    ],
)
def test_each_named_value_is_checked(check, good, bad) -> None:  # type: ignore[no-untyped-def]
    for value in good:
        check(SimpleNamespace(a=value, b=value, other="no number"), "a", "b")
    for value, message in bad.items():
        with pytest.raises(ValueError, match=f"^b: {message}$"):
            check(SimpleNamespace(a=1, b=value), "a", "b")


def test_the_limit_itself_is_allowed() -> None:
    check_at_most(SimpleNamespace(a=5), 5, "a")
    with pytest.raises(ValueError, match=r"^a: 6 is above 5$"):
        check_at_most(SimpleNamespace(a=6), 5, "a")
