"""What the trainer tells of quality, against the audit's labels of the same requests: nothing is missing or counted twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rillet.audit.plain_join import PlainJoin
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.recordings import Recording
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec
from rillet.schemas.spec import LabelMode
from rillet.trainer import BatchAssembler, ServedQuality, TrainerConfig
from rillet.trainer.quality import auc, calibration, normalised_entropy

pytestmark = pytest.mark.simulation


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording") / "synthetic"
    generate_synthetic(folder, requests=2_000)
    return Recording(folder)


def served(recording: Recording, spec: FeatureSpec) -> list[FeatureEvent | ActionEvent]:
    """The recording's events under ``spec``, with logits as if a server had answered."""
    rng = np.random.default_rng(0)
    events: list[FeatureEvent | ActionEvent] = []
    for event in recording.events():
        if isinstance(event, FeatureEvent):
            logits = rng.normal(-2, 1, len(event.impression_ids) * len(spec.tasks)).astype(np.float32)
            event = replace(event, spec_hash=spec.hash, served_logits=logits)
        events.append(event)
    return events


@pytest.mark.parametrize("labels", get_args(LabelMode))
def test_the_trainer_tells_the_exact_quality_of_the_requests_that_it_names(
    recording: Recording, tmp_path: Path, labels: LabelMode
) -> None:
    tasks = tuple(
        replace(task, negative_rate=1.0, window_ms=task.window_ms // 10, labels=labels)
        for task in recording.info.spec.tasks
    )
    spec = replace(recording.info.spec, tasks=tasks)
    join = SimulatedJoin(spec, JoinerConfig(), lateness_ms=1_000, commit_ms=2_000, directory=tmp_path / "joiner")
    plain, assembler = PlainJoin(spec), BatchAssembler(spec)
    quality = ServedQuality(tasks, TrainerConfig(quality_rows=1))
    offset, told = 0, {}
    for event in served(recording, spec):
        plain.add_feature(event) if isinstance(event, FeatureEvent) else plain.add_action(event)
        join.take(event)
        for _, block in join.visible(event.event_time_ms):
            assembler.add(0, offset, block, 0)
            offset += 1
        while (batch := assembler.take(256)) is not None:
            quality.add(batch)
            for task in range(len(tasks)):
                if (known := quality.known(task)) is not None:
                    # A figure is told when it is final: it never changes.
                    assert told.setdefault((task, known.end_ms), known) == known
    join.close()
    expected = plain.result()
    times = expected.feature_time_ms[expected.request]
    assert {task for task, _ in told} == {0, 1}
    assert len(told) > 10
    for (task, _), known in told.items():
        rows = (times >= known.start_ms) & (times < known.end_ms)
        logits, positive = expected.served_logits[rows, task], expected.positive[rows, task]
        metrics = known.metrics
        assert metrics.rows == rows.sum() + (positive.sum() if labels == "immediate" else 0)
        if 0 < positive.sum() < len(positive):
            assert abs(metrics.auc - auc(logits, positive).value) <= metrics.auc_error + 1e-12  # of rounding
            assert metrics.normalised_entropy == pytest.approx(normalised_entropy(logits, positive).value)
            assert metrics.calibration == pytest.approx(calibration(logits, positive).value)
    assert all(quality.left_out_rows(task) == 0 for task in range(len(tasks)))
