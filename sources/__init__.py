"""Topics as they are: JSON and Avro records with raw values become feature and action events."""

from rillet.sources.config import ActionSource, FeatureSource, SourcesConfig
from rillet.sources.converter import Converter, Kind, NativeRecord, is_native, make_converter
from rillet.sources.decoding import load_schema
from rillet.sources.errors import SourceError

__all__ = [
    "ActionSource",
    "Converter",
    "FeatureSource",
    "Kind",
    "NativeRecord",
    "SourceError",
    "SourcesConfig",
    "is_native",
    "load_schema",
    "make_converter",
]
