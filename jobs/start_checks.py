"""What the services would refuse at their start, told before any of them is started or stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rillet.connectors.sample_check import describe_sources
from rillet.jobs.config import RilletConfig
from rillet.jobs.errors import ConfigError
from rillet.joiner import JoinerRuns, Kept, KeptSettings, check_kept
from rillet.schemas import SpecError
from rillet.sources import SourceError


def check_start(config: RilletConfig, source: Path, topic_ids: Mapping[str, str] | None = None) -> None:
    """Refuses feature specs, sources and settings of the joiner that do not fit each other, or not what the joiner has kept.

    :param source: the configuration file, for the message.
    :param topic_ids: of the features and the actions topic, by what they hold, where a broker can be asked.
    :raises ConfigError: the specs cannot be used, or not with the sources.
    :raises JoinerError: windows are open that a joiner of this configuration could not close.
    """
    try:
        specs = config.load_specs()
        describe_sources(specs, config.sources)
    except (SpecError, SourceError) as error:
        raise ConfigError(f"{source}: {error}") from error
    ids = topic_ids or {}
    topics = {kind: (getattr(config.kafka.topics, kind), ids.get(kind, "")) for kind in ("features", "actions")}
    kept = Kept(KeptSettings.of(specs.current, config.joiner), topics)
    check_kept(JoinerRuns(config.data_dir / "joiner" / "runs").newest, kept, specs)
