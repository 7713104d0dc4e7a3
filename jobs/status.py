"""`rillet status`: what runs, what is ready, and how far each topic has got."""

from __future__ import annotations

import math
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from jobs.config import RilletConfig
from jobs.kafka import ensure_broker, topic_ends
from jobs.local.stack import SERVICES, Stack

_TIMEOUT_S = 3.0


def run_status(stack: Stack) -> list[str]:
    """The lines of the report.

    :raises BrokerUnavailableError: the broker does not answer.
    """
    return [*_services(stack), "", *_topics(stack.config)]


def _services(stack: Stack) -> list[str]:
    lines = [f"{'service':14}{'state':12}{'pid':>8}  probe"]
    for name in SERVICES:
        process, url = stack.process(name), stack.ready_url(name)
        ready = stack.is_ready(name)
        state = "ready" if ready else "not ready" if process.pid else "stopped"
        lines.append(f"{name:14}{state:12}{process.pid or '-':>8}  {url or 'off'}")
        if ready and url:
            lines += [f"  {sample}" for sample in _samples(url)]
    return lines


def _topics(config: RilletConfig) -> list[str]:
    kafka = config.kafka
    ensure_broker(kafka.bootstrap_servers, _TIMEOUT_S)
    lines = [f"{'topic':14}{'partitions':>12}{'records':>14}  end offsets     (broker {kafka.bootstrap_servers})"]
    for name in kafka.topic_partitions:
        ends = topic_ends(kafka.bootstrap_servers, name)
        if ends is None:
            lines.append(f"{name:14}{'missing':>12}")
        else:
            records = sum(end - first for first, end in ends.values())
            offsets = " ".join(f"{partition}:{end}" for partition, (_, end) in ends.items())
            lines.append(f"{name:14}{len(ends):>12}{records:>14,}  {offsets}")
    return lines


def _samples(ready_url: str) -> list[str]:
    """rillet's own gauges and counters from the service's /metrics, one a line; those at zero or unknown left out."""
    base = ready_url.split("/v2/")[0].removesuffix("/readyz")
    try:
        with urllib.request.urlopen(f"{base}/metrics", timeout=_TIMEOUT_S) as answer:  # noqa: S310  our own http:// URL
            text = answer.read().decode()
    except (urllib.error.URLError, OSError) as error:
        return [f"/metrics does not answer: {error}"]
    return [
        f"{sample.name}{_labels(sample.labels)} {sample.value:g}"
        for family in text_string_to_metric_families(text)
        if family.name.startswith("rillet_") and family.type in ("gauge", "counter")
        for sample in family.samples
        if not sample.name.endswith("_created") and sample.value and not math.isnan(sample.value)
    ]


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
