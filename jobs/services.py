"""The long-running services of a configuration, and where each answers probes and shows its metrics."""

from __future__ import annotations

import urllib.error
import urllib.request

from rillet.jobs.config import RilletConfig

#: in the order in which their data flows
SERVICES = ("join", "train", "serve")
_PROBE_TIMEOUT_S = 2.0


def port_of(config: RilletConfig, service: str) -> int:
    """The port of a service's probes, 0 when it has none."""
    health = config.health
    ports = {"join": health.join_port, "train": health.train_port, "dump": health.dump_port}
    return {**ports, "serve": config.serving.port}[service]


def host_of(config: RilletConfig, service: str) -> str:
    """The address that a service listens on with that port."""
    return config.serving.host if service == "serve" else config.health.host


def ready_url(config: RilletConfig, service: str) -> str | None:
    """The readiness probe of a service, None when it has no port."""
    path = "/v2/health/ready" if service == "serve" else "/readyz"
    return _url(config, service, path)


def metrics_url(config: RilletConfig, service: str) -> str | None:
    """Where a service's Prometheus metrics are, None when it has no port."""
    return _url(config, service, "/metrics")


def probe(url: str, timeout_s: float = _PROBE_TIMEOUT_S) -> int | None:
    """Status code of a GET of ``url``; None when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310  our own http:// URLs
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return None


def _url(config: RilletConfig, service: str, path: str) -> str | None:
    port = port_of(config, service)
    return f"http://{_reachable(host_of(config, service))}:{port}{path}" if port else None


def _reachable(host: str) -> str:
    """Where a server that listens on ``host`` is reached from this machine."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104  compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
