"""Scores as they would have been had learning stopped: the model as of a position of the delta log, in batches."""

from __future__ import annotations

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.jobs.config import RilletConfig
from rillet.schemas.arrays import Float32s, Int64s
from rillet.serving.features import ScoreRequest
from rillet.serving.predictor import Predictor, check_logits
from rillet.serving.program import DenseProgram
from rillet.sync import ModelStore, TableShard, replica_as_of

_BATCH_REQUESTS = 512


def frozen_logits(config: RilletConfig, joined: ExpectedExamples, requests: Int64s, position: int) -> Float32s:
    """Logits float32[impressions, T] of all impressions of ``requests``, in their order.

    :param requests: request numbers of ``joined``, ascending.
    :param position: of the delta log; everything below it was learnt, nothing else.
    :raises RilletError: the model of then cannot be rebuilt.
    """
    spec = joined.spec
    model = config.model.name
    with KafkaDeltaLog(config.kafka.connection, config.kafka.topics.deltas) as log:
        replica = replica_as_of(
            ModelStore(config.store_url, model),
            log,
            TableShard(model, spec.model_hash),
            position,
            config=config.replica,
        )
    program = DenseProgram(
        replica.base.program,
        segments=spec.segments,
        embedding_width=config.model.row_dim,
        dense_width=len(spec.dense),
        tasks=len(spec.tasks),
    )
    program.load_weights(replica.dense)
    predictor = Predictor(spec)
    parts = [
        logits
        for begin in range(0, len(requests), _BATCH_REQUESTS)
        for logits in predictor.score(
            replica.table,
            program,
            [_request(joined, int(number)) for number in requests[begin : begin + _BATCH_REQUESTS]],
        )
    ]
    return check_logits(np.concatenate(parts)) if parts else np.empty((0, len(spec.tasks)), np.float32)


def _request(joined: ExpectedExamples, number: int) -> ScoreRequest:
    """What the server would score for a request, taken from the joined columns."""
    first, last = int(joined.start[number]), int(joined.start[number + 1])
    return ScoreRequest(
        request_id=joined.request_ids[number],
        event_time_ms=int(joined.feature_time_ms[number]),
        log=False,
        rows=last - first,
        context_fids=joined.context_fids[joined.context_start[number] : joined.context_start[number + 1]],
        context_lengths=joined.context_lengths[number],
        impression_ids=joined.impression_ids[first:last],
        item_fids=joined.item_fids[joined.item_start[first] : joined.item_start[last]],
        item_lengths=joined.item_lengths[first:last].reshape(-1),
        dense=joined.dense[first:last].reshape(-1),
    )
