"""The SQL of the Flink peers, from the files in ``sql/``, for the topics of a run."""

from __future__ import annotations

from pathlib import Path
from string import Template

from rillet.benchmarks.join.contestant import Run
from rillet.benchmarks.join.shapes import NEGATIVE_RATE, WINDOW_MS
from rillet.operators.flink_config import FlinkConfig

_FOLDER = Path(__file__).resolve().parent / "sql"


def statements(file: str, run: Run) -> list[str]:
    """The statements of a file, without comments, filled in.

    :param file: name of it, without its ending.
    :raises KeyError: it asks for something that a run does not have.
    """
    lines = (_FOLDER / f"{file}.sql").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("--"))
    flink = FlinkConfig()
    filled = Template(text).substitute(
        features=run.features,
        actions=run.actions,
        examples=run.examples,
        servers=run.servers,
        name=run.examples,
        lateness_s=flink.lateness_ms // 1_000,
        max_drift_ms=flink.max_drift_ms,
        window_s=WINDOW_MS // 1_000,
        sample_one_of=round(1 / NEGATIVE_RATE),
    )
    return [statement.strip() for statement in filled.split(";") if statement.strip()]
