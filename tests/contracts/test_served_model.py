"""What the batcher counts on from every served model; and implementations that must not pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import Freshness, dump_spec, make_fids
from rillet.serving.config import ServingConfig
from rillet.serving.engine import ServedModel
from rillet.serving.live_model import LiveModel
from rillet.serving.metrics import ServingMetrics
from rillet.sync import Base, MemoryLog, ModelStore, Publisher, PublisherConfig, ReplicaConfig, TableShard
from tests.serving.helpers import MODEL, WIDTH, FakeModel, demo_spec, empty_table, exported_linear

BUDGET_S = 0.002
#: what one call may take on a machine that is busy with other things
CALL_S = 0.5
FILMS = 20_000
WAIT_S = 10.0


class Updates(Protocol):
    """A model that is not ready yet, and the ways in which it changes."""

    model: ServedModel

    def make_ready(self) -> None:
        """Gives it something to serve."""

    def put_weight(self, weight: float) -> None:
        """Puts a new linear weight of many films, and new dense weights, in front of it."""

    def put_bad(self) -> None:
        """Puts an update in front of it that cannot be applied."""

    def put_base(self, weight: float) -> None:
        """Gives the films ``weight``, then puts an older base in front of it, from which ``weight`` is reached again."""


def apply_until(updates: Updates, condition: Callable[[], bool]) -> None:
    """What the batcher's thread does between batches."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the update is never applied"
        if not updates.model.apply(BUDGET_S):
            time.sleep(0.001)


def weight_of(model: ServedModel, film: int) -> float:
    table = model.table
    return float(table.gather_pooled(table.find(make_fids(16, [film])), None)[0, 0])


class Fixed:
    """The model that serving tests use: it changes when an update is run."""

    def __init__(self, kind: type[FakeModel] = FakeModel) -> None:
        self._fake = kind(empty_table(), lambda embeddings, dense: embeddings[:, 0, :2], ready=False)  # type: ignore[arg-type]
        self.model: ServedModel = self._fake
        self._weights: list[float] = []

    def make_ready(self) -> None:
        self._fake.ready = True

    def put_weight(self, weight: float) -> None:
        left = [make_fids(16, np.arange(start, start + 2000)) for start in range(0, FILMS, 2000)]

        def update(budget_s: float) -> bool:
            if left:
                fids = left.pop()
                self._fake.table.upsert(fids, np.full((len(fids), WIDTH), weight, np.float32))
                self._fake.version += not left
            return bool(left)

        self._fake.updates = update

    def put_bad(self) -> None:
        self._fake.updates = None

    def put_base(self, weight: float) -> None:
        self.put_weight(weight)
        apply_until(self, lambda: weight_of(self.model, 7) == weight)
        self.put_weight(weight)
        again, fake = self._fake.updates, self._fake

        def update(budget_s: float) -> bool:
            fake.table, fake.updates = empty_table(), again
            return True

        fake.updates = update


class Live:
    """A live model behind a publisher, a log in memory and a store in a folder; its fetching thread runs."""

    def __init__(self, folder: Path, program: bytes) -> None:
        spec, config = demo_spec(), PublisherConfig(max_block_rows=4096)
        self._now_ms = 1_000_000
        self._log, self._store, self._program = MemoryLog(), ModelStore(str(folder), MODEL), program
        self._table = EmbeddingTable(
            WIDTH, TableConfig(optimizer="none", initial_capacity=4096, chunk_rows=4096), track_touched=True
        )
        self._publisher = Publisher(
            self._log, self._store, TableShard(self._store.model, spec.model_hash), writer="test", config=config
        )
        self.model: LiveModel = LiveModel(
            self._store,
            self._log,
            spec,
            config=ServingConfig(poll_interval_ms=2, base_poll_interval_ms=2),
            replica_config=ReplicaConfig(),
            metrics=ServingMetrics(CollectorRegistry()),
            now_ms=lambda: self._now_ms,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.model.run, args=(self._stop, lambda: None), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def make_ready(self) -> None:
        self._store.write_base(self._snapshot())
        apply_until(self, lambda: self.model.ready)

    def put_weight(self, weight: float) -> None:
        self._table.upsert(make_fids(16, np.arange(FILMS)), np.full((FILMS, WIDTH), weight, np.float32))
        self._publish({"bias": np.full(2, weight, np.float32)})

    def put_bad(self) -> None:
        self._log.append(b"embeddings|0", b"no block at all")
        self._log.commit(1.0)
        self._publish({"bias": np.zeros(3, np.float32)})
        self._publish({"bias": np.array([np.nan, 0], np.float32)})

    def put_base(self, weight: float) -> None:
        self._log.append(b"embeddings|0", b"no block at all")  # a base is what mends it
        self._log.commit(1.0)
        # Its upload takes long: newer weights are served before it is there.
        base, version = self._snapshot(), self.model.version
        self.put_weight(weight)
        apply_until(self, lambda: weight_of(self.model, 7) == weight and self.model.version > version)
        self._store.write_base(base)
        self._now_ms += 3_600_000

    def _snapshot(self) -> Base:
        return self._publisher.snapshot(
            self._table,
            now_ms=self._now_ms,
            dense={"bias": np.zeros(2, np.float32)},
            program=self._program,
            spec_toml=dump_spec(demo_spec()),
        )

    def _publish(self, dense: dict[str, np.ndarray]) -> None:
        self._publisher.publish(self._table, now_ms=1_000_000, freshness=Freshness(1_000_000, 1_000_000), dense=dense)


@pytest.fixture(scope="module")
def program() -> bytes:
    return exported_linear()


@pytest.fixture(params=["fixed", "live"])
def updates(request: pytest.FixtureRequest, tmp_path: Path, program: bytes) -> Iterator[Updates]:
    if request.param == "fixed":
        yield Fixed()
        return
    live = Live(tmp_path, program)
    yield live
    live.close()


def is_not_ready_before_it_has_a_model_and_applies_nothing(updates: Updates) -> None:
    assert not updates.model.ready
    assert not updates.model.apply(BUDGET_S)


def stays_ready_and_scores_while_it_changes(updates: Updates) -> None:
    updates.make_ready()
    model = updates.model
    for weight in (0.25, 0.5):
        updates.put_weight(weight)

        def scored_and_applied(weight: float = weight) -> bool:
            assert model.ready
            logits = model.program(np.zeros((3, 8, WIDTH), np.float32), np.zeros((3, 0), np.float32))
            assert logits.shape == (3, 2)
            return weight_of(model, 7) == weight

        apply_until(updates, scored_and_applied)


def raises_its_version_with_new_weights_and_never_lowers_it(updates: Updates) -> None:
    updates.make_ready()
    versions = [updates.model.version]
    for weight in (0.25, 0.5, 0.75):
        updates.put_weight(weight)

        def is_newer(last: int = versions[-1]) -> bool:
            versions.append(updates.model.version)
            return versions[-1] > last

        apply_until(updates, is_newer)
    assert versions == sorted(versions)


def stays_ready_and_keeps_its_version_when_a_base_replaces_the_table(updates: Updates) -> None:
    updates.make_ready()
    updates.put_base(0.5)
    model = updates.model
    table, version = model.table, model.version

    def swapped_and_caught_up() -> bool:
        assert model.ready
        assert model.version >= version
        return model.table is not table and weight_of(model, 7) == 0.5

    apply_until(updates, swapped_and_caught_up)


def applies_in_slices_that_end_near_their_budget(updates: Updates) -> None:
    updates.make_ready()
    updates.put_weight(0.5)
    more_seen = False
    deadline = time.monotonic() + WAIT_S
    while weight_of(updates.model, 7) != 0.5 or weight_of(updates.model, FILMS - 7) != 0.5:
        assert time.monotonic() < deadline, "the update is never applied"
        started = time.monotonic()
        more_seen |= updates.model.apply(1e-9)
        assert time.monotonic() - started < CALL_S
    assert more_seen, "an update of many rows fitted into a budget of none"


def never_raises_for_a_bad_update_and_goes_on_with_the_next(updates: Updates) -> None:
    updates.make_ready()
    updates.put_weight(0.25)
    apply_until(updates, lambda: weight_of(updates.model, 7) == 0.25)
    updates.put_bad()
    for _ in range(20):
        updates.model.apply(BUDGET_S)
        time.sleep(0.002)
    assert updates.model.ready
    assert weight_of(updates.model, 7) == 0.25
    logits = updates.model.program(np.zeros((1, 8, WIDTH), np.float32), np.zeros((1, 0), np.float32))
    assert np.isfinite(logits).all()
    updates.put_weight(0.5)
    apply_until(updates, lambda: weight_of(updates.model, 7) == 0.5)


Check = Callable[[Updates], None]
CHECKS: list[Check] = [
    is_not_ready_before_it_has_a_model_and_applies_nothing,
    stays_ready_and_scores_while_it_changes,
    raises_its_version_with_new_weights_and_never_lowers_it,
    stays_ready_and_keeps_its_version_when_a_base_replaces_the_table,
    applies_in_slices_that_end_near_their_budget,
    never_raises_for_a_bad_update_and_goes_on_with_the_next,
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_served_model(updates: Updates, check: Check) -> None:
    check(updates)


# -- implementations that the suite has to refuse ----------------------------------------------------------


class Eager(FakeModel):
    """Works before there is a model."""

    def apply(self, budget_s: float) -> bool:
        super().apply(budget_s)
        return not self.ready


class Flapping(FakeModel):
    """Not ready while it changes."""

    def apply(self, budget_s: float) -> bool:
        more = super().apply(budget_s)
        self.ready = not more and len(self.table) < FILMS
        return more


class Reloading(FakeModel):
    """Not ready while its table is replaced."""

    def apply(self, budget_s: float) -> bool:
        table = self.table
        more = super().apply(budget_s)
        self.ready = self.table is table
        return more


class Renumbering(FakeModel):
    """Counts its versions down."""

    def apply(self, budget_s: float) -> bool:
        before = self.version
        more = super().apply(budget_s)
        self.version -= 2 * (self.version - before)
        return more


class Unbounded(FakeModel):
    """Applies whatever there is in one call."""

    def apply(self, budget_s: float) -> bool:
        while super().apply(budget_s):
            pass
        return False


class Slow(FakeModel):
    """Takes its time."""

    def apply(self, budget_s: float) -> bool:
        time.sleep(CALL_S)
        return super().apply(budget_s)


class Raising(FakeModel):
    """Raises where it cannot apply."""

    def apply(self, budget_s: float) -> bool:
        if self.ready and self.updates is None:
            raise ValueError("a bad update")
        return super().apply(budget_s)


BROKEN: list[tuple[type[FakeModel], Check]] = [
    (Eager, is_not_ready_before_it_has_a_model_and_applies_nothing),
    (Flapping, stays_ready_and_scores_while_it_changes),
    (Reloading, stays_ready_and_keeps_its_version_when_a_base_replaces_the_table),
    (Unbounded, applies_in_slices_that_end_near_their_budget),
    (Slow, applies_in_slices_that_end_near_their_budget),
    (Raising, never_raises_for_a_bad_update_and_goes_on_with_the_next),
]


@pytest.mark.parametrize(("kind", "check"), BROKEN)
def test_the_suite_refuses_a_broken_model(kind: type[FakeModel], check: Check) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(Fixed(kind))


def test_the_suite_refuses_a_model_whose_versions_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "WAIT_S", 0.1)  # the check waits for a higher version, which never comes
    with pytest.raises(AssertionError):
        raises_its_version_with_new_weights_and_never_lowers_it(Fixed(Renumbering))
