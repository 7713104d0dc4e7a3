"""Writers' schemas from a schema registry, by the id in a record's framing (Confluent's REST interface).

Reads ``GET {url}/schemas/ids/{id}`` and, for references, ``GET {url}/subjects/{subject}/versions/{version}``. Anyone can
write any id into a record, so what the registry answers to one id is told from what it answers at all. Messages name the
registry's host alone: other parts of its URL may be secret.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from rillet.connectors.errors import RegistryRefusedError, RegistryUnavailableError
from rillet.schemas import RecordError
from rillet.sources.avro_schemas import UnsafeSchemaError, parse_schema

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
#: pauses before a new id that the registry does not have is asked for again: it may be registered a moment later
_PATIENCE_S = (0.5, 1.0, 2.0)
#: patience stalls the topic, so it is had with one id in so long: with one that is not there, or gets no sensible answer
_PATIENCE_EVERY_S = 30.0
#: an id that cannot be used is not asked for again for so long, from the first pause to the longest
_REFUSED_S, _LONGEST_REFUSED_S = 1.0, 30.0
#: most ids that are remembered as refused
_MAX_REFUSED = 10_000
#: ids of registries are positive integers of 32 bits
_MAX_ID = (1 << 31) - 1
#: answers to one id that make no sense, before another id is asked for in order to tell whose fault it is
_ODD_TRIES = 3
_MAX_BYTES = 16 << 20
#: too slow, or too much at once: another time it may be well
_BUSY = (408, 429)


class _NotThereError(RecordError):
    """The registry answers, and has no such document."""


class _OddAnswerError(RegistryUnavailableError):
    """An answer that says nothing: the registry's fault, or that of a single id."""


class _Refused(NamedTuple):
    """An id that cannot be used, until when that is taken for granted, and for how long it was this time."""

    reason: str
    until_s: float
    pause_s: float


class SchemaRegistry:
    """Schemas of a registry, each fetched once."""

    def __init__(self, url: str, *, timeout_s: float = 10.0, wait_s: float = 0.0) -> None:
        """
        :param timeout_s: of one request, from the first byte to the last.
        :param wait_s: for how long a registry that does not answer is asked again before that is an error.
        """
        self._url = url.rstrip("/")
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._schemas: dict[int, Any] = {}
        self._refused: dict[int, _Refused] = {}
        self._patient_from_s = 0.0
        #: path of a schema that was there
        self._answered = "/schemas/ids/1"

    def schema(self, schema_id: int) -> Any:
        """The schema of an id, parsed by fastavro.

        :raises RecordError: the registry has no such schema, one that cannot be used, or no answer to this id alone.
        :raises RegistryRefusedError: the registry asks for a password.
        :raises RegistryUnavailableError: the registry did not answer within ``wait_s``.
        """
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        if schema_id > _MAX_ID:
            raise RecordError(f"value: schema {schema_id}: ids of a schema registry are not above {_MAX_ID}")
        refused = self._refused.get(schema_id)
        if refused is not None and time.monotonic() < refused.until_s:
            raise RecordError(refused.reason)
        try:
            schema = self._fetch_patiently(schema_id) if refused is None else self._fetch(schema_id)
        except RecordError as error:
            self._remember(schema_id, str(error), refused)
            # Refused records are counted by the name of their error.
            raise RecordError(str(error)) from error
        self._refused.pop(schema_id, None)
        self._schemas[schema_id] = schema
        return schema

    def _remember(self, schema_id: int, reason: str, before: _Refused | None) -> None:
        if len(self._refused) >= _MAX_REFUSED:
            self._refused.clear()
        pause_s = _REFUSED_S if before is None else min(before.pause_s * 2, _LONGEST_REFUSED_S)
        self._refused[schema_id] = _Refused(reason, time.monotonic() + pause_s, pause_s)

    def _fetch_patiently(self, schema_id: int) -> Any:
        now_s = time.monotonic()
        if now_s >= self._patient_from_s:
            for pause_s in _PATIENCE_S:
                try:
                    return self._fetch(schema_id)
                except _NotThereError:
                    self._patient_from_s = now_s + _PATIENCE_EVERY_S
                    time.sleep(pause_s)
        return self._fetch(schema_id)

    def _fetch(self, schema_id: int) -> Any:
        where = f"value: schema {schema_id} of {self._host}"
        answer = self._get(f"/schemas/ids/{schema_id}")
        if answer is None:
            raise _NotThereError(f"{where}: the registry has none of this id")
        kind = answer.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise RecordError(f"{where}: is of type {kind}, expected AVRO")
        named: dict[str, Any] = {}
        try:
            self._add_references(answer, named, ())
            return parse_schema(json.loads(answer["schema"]), named)
        except (RecordError, RegistryUnavailableError):
            raise
        except UnsafeSchemaError as error:
            raise RecordError(f"{where}: cannot be used: {error}") from error
        # Of a document that is no schema the parser raises whatever it stumbles on.
        except Exception as error:
            raise RecordError(f"{where}: is no Avro schema ({type(error).__name__}: {error})") from error

    def _add_references(self, answer: dict[str, Any], named: dict[str, Any], above: tuple[str, ...]) -> None:
        """Parses the schemas that a schema refers to, innermost first.

        :param above: paths of the schemas that led here.
        """
        for reference in answer.get("references") or ():
            if reference["name"] in named:
                continue
            path = f"/subjects/{quote(reference['subject'], safe='')}/versions/{int(reference['version'])}"
            if path in above:
                raise RecordError(f"value: schema {path} of {self._host}: refers to itself")
            referred = self._get(path)
            if referred is None:
                raise _NotThereError(f"value: schema {path} of {self._host}, which a schema refers to, is not there")
            self._add_references(referred, named, (*above, path))
            parse_schema(json.loads(referred["schema"]), named)

    def _get(self, path: str) -> dict[str, Any] | None:
        """A document of the registry; None where it has none at this path."""
        deadline_s = time.monotonic() + self._wait_s
        tries = _ODD_TRIES if time.monotonic() >= self._patient_from_s else 1
        odd = 0
        while True:
            try:
                found = self._get_once(path)
            except RegistryRefusedError as error:
                if self._another_answers(path):
                    raise RecordError(f"value: {error}; it answers for another schema") from error
                raise
            except RegistryUnavailableError as error:
                is_odd = isinstance(error, _OddAnswerError)
                odd += is_odd
                if is_odd and odd >= tries and self._another_answers(path):
                    self._patient_from_s = time.monotonic() + _PATIENCE_EVERY_S
                    raise RecordError(f"value: {error}; it answers for another schema") from error
                if time.monotonic() >= deadline_s and not (is_odd and odd < tries):
                    raise
                log.warning("%s; asking again", error)
                time.sleep(_PAUSE_S)
            else:
                if found is not None:
                    self._answered = path
                return found

    def _another_answers(self, path: str) -> bool:
        """Whether the registry says of another schema that it has it or not."""
        other = self._answered if self._answered != path else "/schemas/ids/2"
        try:
            self._get_once(other)
        except RecordError:
            return True
        except RegistryUnavailableError:
            return False
        return True

    def _get_once(self, path: str) -> dict[str, Any] | None:
        where = f"schema registry {self._host}, {path}"
        hint = "is [sources.*] registry right, and is it up?"
        try:
            status, reason, body = self._within_timeout(path)
        except OSError as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
            raise RegistryUnavailableError(f"{where}: {why}; {hint}") from error
        # Their messages may hold the URL.
        except (http.client.HTTPException, ValueError) as error:
            raise RegistryUnavailableError(f"{where}: {type(error).__name__}; {hint}") from None
        answered = f"{where}: answered {status} {reason}"
        if status == 404 and _is_of_a_registry(body):
            return None
        if status in (401, 403):
            raise RegistryRefusedError(
                f"{answered}: it does not let rillet read. [sources.*] registry has to be a URL that can be read without a"
                " password"
            )
        if status in _BUSY:
            raise RegistryUnavailableError(answered)
        if not 200 <= status < 300:
            raise _OddAnswerError(f"{answered}; {hint}" if status == 404 else answered)
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _OddAnswerError(f"{where}: answered with something that is no JSON ({error})") from error
        if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
            raise _OddAnswerError(f"{where}: answered with no schema but {body[:80]!r}")
        return found

    def _within_timeout(self, path: str) -> tuple[int, str, bytes]:
        """Status, its reason and the body.

        A timeout of a socket is one of each read: an answer that drips would take any time. So a thread reads it, which is
        left alone when the time is over.

        :raises OSError: no answer, or none in time.
        :raises HTTPException: an answer that is not one of HTTP.
        """
        answers: queue.SimpleQueue[tuple[int, str, bytes] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._ask(path))
            # Raised again where it is waited for.
            except Exception as error:
                answers.put(error)

        threading.Thread(target=ask, name="schema-registry", daemon=True).start()
        try:
            found = answers.get(timeout=self._timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no whole answer within {self._timeout_s:g} s") from None
        if isinstance(found, Exception):
            raise found
        return found

    def _ask(self, path: str) -> tuple[int, str, bytes]:
        request = urllib.request.Request(  # noqa: S310 - the configuration accepts http and https alone
            self._url + path, headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                return answer.status, answer.reason, answer.read(_MAX_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, str(error.reason), error.read(_MAX_BYTES)


def _is_of_a_registry(body: bytes) -> bool:
    """Whether a 404 says that a schema is not there, and not that there is no registry at this URL."""
    try:
        return "error_code" in json.loads(body)
    except (ValueError, TypeError, RecursionError):
        return False
