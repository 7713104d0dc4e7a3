"""Writers' schemas from a schema registry, by the id in a record's framing (Confluent's REST interface).

Reads ``GET {url}/schemas/ids/{id}`` and, for references, ``GET {url}/subjects/{subject}/versions/{version}``.
"""

from __future__ import annotations

import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from rillet.connectors.errors import RegistryUnavailableError
from rillet.schemas import RecordError
from rillet.sources.avro_schemas import UnsafeSchemaError, parse_schema

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
#: an id that the registry does not have is not asked for again for so long
_UNKNOWN_S = 30.0
#: most ids that are remembered as unknown: anyone can write any number into a record
_MAX_UNKNOWN = 10_000


class SchemaRegistry:
    """Schemas of a registry, each fetched once."""

    def __init__(self, url: str, *, timeout_s: float = 10.0, wait_s: float = 0.0) -> None:
        """
        :param timeout_s: of one request.
        :param wait_s: for how long a registry that does not answer is asked again before that is an error.
        """
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._schemas: dict[int, Any] = {}
        #: error of an id that the registry does not have, and until when it is taken for granted
        self._unknown: dict[int, tuple[float, str]] = {}

    def schema(self, schema_id: int) -> Any:
        """The schema of an id, parsed by fastavro.

        :raises RecordError: the registry has no such schema, or one that is not Avro.
        :raises RegistryUnavailableError: the registry did not answer within ``wait_s``, or refused to.
        """
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        until, reason = self._unknown.get(schema_id, (0.0, ""))
        if time.monotonic() < until:
            raise RecordError(reason)
        try:
            schema = self._fetch(schema_id)
        except RecordError as error:
            if len(self._unknown) >= _MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = (time.monotonic() + _UNKNOWN_S, str(error))
            raise
        self._schemas[schema_id] = schema
        return schema

    def _fetch(self, schema_id: int) -> Any:
        answer = self._get(f"/schemas/ids/{schema_id}")
        where = f"value: schema {schema_id} of {self._url}"
        if answer is None:
            raise RecordError(f"{where}: the registry has none of this id")
        kind = answer.get("schemaType", "AVRO")
        if kind != "AVRO":
            raise RecordError(f"{where}: is of type {kind}, expected AVRO")
        named: dict[str, Any] = {}
        try:
            self._add_references(answer, named)
            return parse_schema(json.loads(answer["schema"]), named)
        except (RecordError, RegistryUnavailableError):
            raise
        except UnsafeSchemaError as error:
            raise RecordError(f"{where}: cannot be used: {error}") from error
        # Of a document that is no schema the parser raises whatever it stumbles on.
        except Exception as error:
            raise RecordError(f"{where}: is no Avro schema ({type(error).__name__}: {error})") from error

    def _add_references(self, answer: dict[str, Any], named: dict[str, Any]) -> None:
        """Parses the schemas that a schema refers to, innermost first."""
        for reference in answer.get("references") or ():
            if reference["name"] in named:
                continue
            path = f"/subjects/{quote(reference['subject'], safe='')}/versions/{int(reference['version'])}"
            referred = self._get(path)
            if referred is None:
                raise RecordError(f"value: {self._url}{path}, which a schema refers to, is not there")
            self._add_references(referred, named)
            parse_schema(json.loads(referred["schema"]), named)

    def _get(self, path: str) -> dict[str, Any] | None:
        """A document of the registry; None where it has none at this path."""
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                return self._get_once(path)
            except RegistryUnavailableError as error:
                if time.monotonic() >= deadline:
                    raise
                log.warning("%s; asking again", error)
                time.sleep(_PAUSE_S)

    def _get_once(self, path: str) -> dict[str, Any] | None:
        url = self._url + path
        request = urllib.request.Request(  # noqa: S310 - the configuration accepts http and https alone
            url, headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                why = f"answered {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:
            why = f"answered with something that is no JSON ({error})"
        else:
            if isinstance(found, dict) and isinstance(found.get("schema"), str):
                return found
            why = f"answered with no schema but {found!r:.80}"
        raise RegistryUnavailableError(f"schema registry {url}: {why}; is [sources.*] registry right, and is it up?")
