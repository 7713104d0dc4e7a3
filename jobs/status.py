"""`rillet status`: which services answer, which are ready, and how far each topic has got.

Asks what the configuration names, wherever it runs: processes of this machine, containers or another host.
"""

from __future__ import annotations

import math

from rillet.connectors.topics import ensure_broker, topic_ends
from rillet.jobs.config import RilletConfig
from rillet.jobs.scrape import scrape
from rillet.jobs.services import SERVICES, metrics_url, probe, ready_url

_TIMEOUT_S = 3.0


def run_status(config: RilletConfig) -> list[str]:
    """The lines of the report.

    :raises BrokerUnavailableError: the broker does not answer.
    """
    return [*_services(config), "", *_topics(config)]


def _services(config: RilletConfig) -> list[str]:
    lines = [f"{'service':14}{'state':14}probe"]
    for name in SERVICES:
        url = ready_url(config, name)
        status = None if url is None else probe(url)
        state = (
            "unknown" if url is None else "no answer" if status is None else "ready" if status == 200 else "not ready"
        )
        lines.append(f"{name:14}{state:14}{url or 'off: no port is configured'}")
        if status == 200:
            lines += [f"  {sample}" for sample in _samples(metrics_url(config, name) or "")]
    return lines


def _topics(config: RilletConfig) -> list[str]:
    kafka = config.kafka
    ensure_broker(kafka.connection, _TIMEOUT_S)
    lines = [f"{'topic':14}{'partitions':>12}{'records':>14}  end offsets     (broker {kafka.bootstrap_servers})"]
    for name in kafka.topic_partitions:
        ends = topic_ends(kafka.connection, name)
        if ends is None:
            lines.append(f"{name:14}{'missing':>12}")
        else:
            records = sum(end - first for first, end in ends.values())
            offsets = " ".join(f"{partition}:{end}" for partition, (_, end) in ends.items())
            lines.append(f"{name:14}{len(ends):>12}{records:>14,}  {offsets}")
    return lines


def _samples(url: str) -> list[str]:
    """rillet's own gauges and counters from a service's metrics, one per line; those at zero or unknown left out."""
    read = scrape(url)
    if read is None:
        return [f"{url} does not answer"]
    return [
        f"{sample.name}{_labels(sample.labels)} {sample.value:g}"
        for family in read.families
        if family.name.startswith("rillet_") and family.type in ("gauge", "counter")
        for sample in family.samples
        if not sample.name.endswith("_created") and sample.value and not math.isnan(sample.value)
    ]


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
