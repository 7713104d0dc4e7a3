"""Wire formats of rillet: records, their Avro encoding, fids and the feature spec."""

from rillet.schemas.codec import CODECS, Codec, decode, decode_as, encode
from rillet.schemas.crosses import Cross
from rillet.schemas.dead_letter import DeadLetter, dead_letter, decode_dead_letter, encode_dead_letter
from rillet.schemas.errors import DecodeError, RecordError, RilletError, SpecError, SpecMismatchError
from rillet.schemas.fid import PADDING_FID, make_fids, slot_of, token_values, value_of
from rillet.schemas.raw_events import MAX_AHEAD_MS, check_event, decode_event, parse_ingest_ms, quoted
from rillet.schemas.records import (
    MAX_ACTION_TIMES,
    MAX_TIME_MS,
    NO_TIME_MS,
    ActionEvent,
    DeltaBlock,
    DeltaRecord,
    DenseRef,
    EpochClaim,
    ExampleBlock,
    FeatureEvent,
    Freshness,
    LabelKind,
    Record,
)
from rillet.schemas.spec import FeatureSpec, Slot, Task, quantile_bins
from rillet.schemas.spec_file import dump_spec, load_spec, parse_spec
from rillet.schemas.stages import (
    BackpressureError,
    ClosedError,
    FlushTimeoutError,
    Sink,
    Source,
    Stage,
    StageGroup,
)

__all__ = [
    "CODECS",
    "MAX_ACTION_TIMES",
    "MAX_AHEAD_MS",
    "MAX_TIME_MS",
    "NO_TIME_MS",
    "PADDING_FID",
    "ActionEvent",
    "BackpressureError",
    "ClosedError",
    "Codec",
    "Cross",
    "DeadLetter",
    "DecodeError",
    "DeltaBlock",
    "DeltaRecord",
    "DenseRef",
    "EpochClaim",
    "ExampleBlock",
    "FeatureEvent",
    "FeatureSpec",
    "FlushTimeoutError",
    "Freshness",
    "LabelKind",
    "Record",
    "RecordError",
    "RilletError",
    "Sink",
    "Slot",
    "Source",
    "SpecError",
    "SpecMismatchError",
    "Stage",
    "StageGroup",
    "Task",
    "check_event",
    "dead_letter",
    "decode",
    "decode_as",
    "decode_dead_letter",
    "decode_event",
    "dump_spec",
    "encode",
    "encode_dead_letter",
    "load_spec",
    "make_fids",
    "parse_ingest_ms",
    "parse_spec",
    "quantile_bins",
    "quoted",
    "slot_of",
    "token_values",
    "value_of",
]
