"""How large a record may be, written once: producers, topics, brokers, Flink's sink and dead letters derive from it.

Beside it, how large a group of example files is.
"""

from __future__ import annotations

#: largest record batch that a topic and the local broker take (`max.message.bytes`, `message.max.bytes`)
TOPIC_MAX_BYTES = 16 << 20

#: largest record (key, value and headers) that a producer takes: it has to fit into a batch, which adds some bytes
RECORD_MAX_BYTES = TOPIC_MAX_BYTES - (64 << 10)

#: bytes that a consumer fetches from a partition at once; a larger record still comes, alone
FETCH_BYTES = 8 << 20

#: bytes of a refused record (key, headers and value) kept in its dead letter, where they take 4/3 of it as base64
LETTER_BYTES = RECORD_MAX_BYTES // 2

#: example rows that are held before they are written to files together; also the most that a reader has to hold
GROUP_ROWS = 262_144
