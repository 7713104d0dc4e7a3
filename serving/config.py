"""Settings of one serving process. Where the model comes from is in the configuration of ``sync``."""

from __future__ import annotations

from dataclasses import dataclass

from rillet.schemas.ranges import check_above_zero, check_finite, check_not_negative


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """Limits, times and address of the server. Rows are candidates: a request of ten candidates is ten rows."""

    #: address to listen on
    host: str = "127.0.0.1"
    #: TCP port; 0 takes a free one and logs it
    port: int = 8500
    #: rows waiting for the model before requests are refused with 429
    max_queue_rows: int = 8192
    #: rows of one call of the model; a larger request is a batch of its own
    max_batch_rows: int = 1024
    #: rows of one request, refused with 400 above it
    max_request_rows: int = 2048
    #: how long a batch that is not full waits for more, from its first request on, in ms; 0 never waits
    max_queue_delay_ms: float = 0.0
    #: deadline of a request that sets none, in ms from its first byte to its scores; 0 is no deadline
    default_timeout_ms: float = 0.0
    #: longest time between two batches that applying updates may take, in ms
    apply_slice_ms: float = 2.0
    #: pause between two reads of the delta log while it has nothing new, in ms
    poll_interval_ms: float = 50.0
    #: pause between two checks of the store while there is no base yet, in ms
    base_poll_interval_ms: float = 1000.0
    #: largest request body, in bytes; 413 above it
    max_body_bytes: int = 16 * 1024 * 1024
    #: bytes of the bodies of all requests that are not answered yet; 429 above it
    max_bodies_bytes: int = 256 * 1024 * 1024
    #: how long a body may take to arrive, in seconds; 408 after it
    body_timeout_s: float = 10.0
    #: a batch, or a slice of updates, that takes this many seconds is stuck: the server is neither live nor ready then
    stuck_after_s: float = 30.0
    #: how long a stop goes on serving while the readiness probe says no already, in seconds: as long as a load balancer takes
    #: to notice; 0 behind none
    drain_notice_s: float = 0.0
    #: how long shutdown then waits for requests in flight and for the feature log, together, in seconds
    drain_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not in 0..65535")
        times = (
            "apply_slice_ms",
            "poll_interval_ms",
            "base_poll_interval_ms",
            "body_timeout_s",
            "stuck_after_s",
            "drain_timeout_s",
        )
        optional_times = ("max_queue_delay_ms", "default_timeout_ms", "drain_notice_s")
        check_above_zero(self, "max_queue_rows", "max_batch_rows", "max_request_rows", "max_body_bytes", *times)
        check_not_negative(self, *optional_times)
        check_finite(self, *times, *optional_times)
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(f"max_bodies_bytes: {self.max_bodies_bytes} is less than max_body_bytes")
