"""The configuration of a demo: free ports, a folder of its own, short intervals, lateness to fit the pace.

A recording is driven faster than it was made (MovieLens by a factor of thousands). What the joiner calls
late is event time, so lateness and slices are scaled by that factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.config import KafkaConfig
from rillet.demo.chosen import chosen_table
from rillet.demo.driver import DriveSettings
from rillet.demo.plan import Plan
from rillet.devstack.process import free_port
from rillet.jobs.config import HealthConfig, RilletConfig, dump_config
from rillet.joiner.config import JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from rillet.recordings import RecordingInfo
from rillet.schemas import dump_spec
from rillet.serving.config import ServingConfig
from rillet.sync.config import PublisherConfig
from rillet.trainer.config import ModelConfig, TrainerConfig

DEFAULT_RATE = 200.0
CONCURRENCY = 12
_MIN_LATENESS_MS = 30_000
_MIN_SLICE_MS = 60_000


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Everything that is decided before the first process starts."""

    config: RilletConfig
    config_path: Path
    drive: DriveSettings
    #: where the batch stage's examples go
    batch_files: Path


def make_settings(info: RecordingInfo, plan: Plan, folder: Path, rate: float = DEFAULT_RATE) -> DemoSettings:
    """Writes ``rillet.toml`` and the feature spec into ``folder``.

    :param rate: requests per second that the driver will aim at.
    """
    speedup = max(1.0, plan.live_span_ms / 1000 / (plan.live / rate))
    # As much event time as passes while all requests in flight are answered, twice over for busy spells.
    lateness_ms = max(_MIN_LATENESS_MS, round(2000 * CONCURRENCY / rate * speedup))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.toml").write_text(dump_spec(info.spec), "utf-8")
    serving = ServingConfig(port=free_port(), poll_interval_ms=20.0)
    config = RilletConfig(
        spec=Path("spec.toml"),
        data_dir=Path("data"),
        kafka=KafkaConfig(bootstrap_servers=f"127.0.0.1:{free_port()}"),
        joiner=JoinerConfig(slice_ms=max(_MIN_SLICE_MS, lateness_ms // 4)),
        flink=FlinkConfig(
            lateness_ms=lateness_ms,
            checkpoint_interval_ms=1000,
            # The driver itself keeps the partitions together; aligning them would cost a pause at every gap.
            max_drift_ms=0,
        ),
        model=ModelConfig(name=info.spec.name, kind="deepfm", dim=16, hidden=(32,), dense_learning_rate=0.003),
        table=chosen_table(info.dataset),
        trainer=TrainerConfig(batch_size=512, max_wait_ms=1000, checkpoint_interval_s=60.0),
        # Nothing is collected: the report looks back at the model of the first fifth.
        publisher=PublisherConfig(
            sparse_interval_s=3.0, dense_interval_s=9.0, base_interval_s=120.0, keep_bases=1000, keep_dense=100_000
        ),
        serving=serving,
        health=HealthConfig(join_port=free_port(), train_port=free_port()),
    )
    path = folder / "rillet.toml"
    path.write_text(dump_config(config), "utf-8")
    drive = DriveSettings(
        url=f"http://{serving.host}:{serving.port}",
        model=info.spec.name,
        rate=rate,
        concurrency=CONCURRENCY,
        spread_ms=lateness_ms // 2,
    )
    return DemoSettings(config, path, drive, folder / "batch")
