"""The join of a range of requests out of topics that hold more: what is not of the range passes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pyflink.datastream import KeyedProcessFunction, OutputTag

from rillet.joiner import JoinerConfig, RequestRange, WaitingFullError
from rillet.operators.joiner_function import JoinFunction
from rillet.operators.records import JoinRecord, split_record
from rillet.schemas import RecordError, SpecRegistry, decode_event

if TYPE_CHECKING:
    from rillet.connectors.silence import TopicSilence
    from rillet.operators.flink_config import FlinkConfig


class BackfillFunction(JoinFunction):
    """A :class:`JoinFunction` of the requests of a range; see there."""

    def __init__(
        self,
        requests: RequestRange,
        specs: SpecRegistry,
        config: JoinerConfig,
        flink: FlinkConfig,
        silence: Callable[[], TopicSilence] | None = None,
        local_dir: str | None = None,
    ) -> None:
        super().__init__(specs, config, flink, silence, local_dir)
        self._requests = requests
        self._settled_ms = requests.settled_ms(config)

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """One record of either topic."""
        record = split_record(bytes(value))
        try:
            wanted = self._requests.wants(decode_event(record.value, record.key), self._specs.current)
        except RecordError:
            wanted = True  # to be refused with the reason
        if wanted:
            yield from super().process_element(value, ctx)

    def _refuse(self, error: RecordError, record: JoinRecord, timers: Any) -> Iterator[tuple[OutputTag, Any]]:
        if isinstance(error, WaitingFullError) and timers.current_watermark() >= self._settled_ms:
            # Actions on later requests fill the room to wait: they wait for nothing that is read here.
            self._joiner.counters.orphan_actions += 1
            return
        yield from super()._refuse(error, record, timers)
