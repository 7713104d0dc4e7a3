"""Seeds: a test that takes ``seed`` runs some dozens of them, ``-m long`` the rest of 2,000, ``--seed N`` that one."""

from __future__ import annotations

from collections.abc import Generator

import pytest

SEEDS = 40
LONG_SEEDS = 2_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="run the simulations with this seed alone, any number")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    # Unknown where these tests are run among others.
    one = metafunc.config.getoption("--seed", None)
    if one is not None:
        metafunc.parametrize("seed", [one])
        return
    # Thousands of seeds would be collected and left out again by every other run: a second for nothing.
    asked = "long" in metafunc.config.option.markexpr
    later = [pytest.param(seed, marks=pytest.mark.long) for seed in range(SEEDS, LONG_SEEDS if asked else SEEDS)]
    metafunc.parametrize("seed", [*range(SEEDS), *later])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function) and "seed" in getattr(item, "callspec", item).params:
        test, seed = item.nodeid.partition("[")[0], item.callspec.params["seed"]
        report.sections.append(("this seed alone", f"python -m pytest {test} --seed {seed}"))
    return report
