"""Reads TensorBoard's event files as TensorBoard does, without its weight."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file, checksums compared."""
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        for part, check in ((data[:8], data[8:12]), (data[12 : 12 + size], data[12 + size : 16 + size])):
            crc = google_crc32c.value(part)
            assert struct.unpack("<I", check)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        yield data[12 : 12 + size]
        data = data[16 + size :]


def events(folder: Path) -> list[Event]:
    """Events of all files, in the order in which TensorBoard reads them."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    return [Event.FromString(record) for file in files for record in _records(file.read_bytes())]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: step and value by tag, without what a start has made void."""
    shown: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            shown = {tag: [p for p in points if p[0] < event.step] for tag, points in shown.items()}
        for value in event.summary.value:
            shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown
