"""Where a field lies in a decoded record: names and list indices joined by dots.

A dot that belongs to a name is written ``\\.``.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Sequence
from typing import Any

from rillet.schemas import RecordError, quoted

#: as repr, but not to the end: a record may be nested as deep as Python can go
_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxlist = _REPR.maxdict = _REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80

#: how much two names have to share, of 1, for one to stand for the other
_ALIKE = 0.75

_DOT = re.compile(r"(?<!\\)\.")


class Path:
    """A place in a record.

    >>> Path("user.id").find({"user": {"id": 7}})
    7
    >>> Path("tags.1").find({"tags": ["a", "b"]})
    'b'
    >>> print(Path("user.id").find({"user": {}}))
    None
    """

    __slots__ = ("parts", "text")

    def __init__(self, text: str) -> None:
        """:raises ValueError: no path."""
        self.text = text
        self.parts = tuple(part.replace("\\.", ".") for part in _DOT.split(text))
        if not all(self.parts):
            raise ValueError(f"{text!r} is no path: names and list indices joined by dots")

    def find(self, value: Any, prefix: str = "") -> Any:
        """What lies there; None where there is nothing, or null.

        :param prefix: path of ``value`` itself, for messages.
        :raises RecordError: the path leads through something that has no fields, such as a number.
        """
        for place, part in enumerate(self.parts):
            if type(value) is dict:
                value = value.get(part)
            elif value is None:
                return None
            elif type(value) is list and part.isascii() and part.isdecimal():
                value = value[int(part)] if int(part) < len(value) else None
            else:
                here = joined(prefix, ".".join(self.parts[:place])) or "value"
                what = "a list; give an index before" if type(value) is list else f"{shown(value)}, which has no field"
                raise RecordError(f"{here}: is {what} {part!r} (path {self.text!r})")
        return value

    def nearest(self, value: Any) -> str | None:
        """A field beside the one that is not there, of much the same name; slow, for messages.

        >>> Path("hotel.hotelId").nearest({"hotel": {"stars": 4, "hotel_id": 7}})
        'hotel_id'
        """
        for part in self.parts[:-1]:
            value = value.get(part) if type(value) is dict else None
        if type(value) is not dict:
            return None
        names = {name.lower(): name for name in value if isinstance(name, str) and name != self.parts[-1]}
        found = difflib.get_close_matches(self.parts[-1].lower(), names, 1, _ALIKE)
        return names[found[0]] if found else None

    def column(self, values: Sequence[Any], prefix: str) -> list[Any]:
        """:meth:`find` in each of a list's values.

        :param prefix: path of the list.
        :raises RecordError: as :meth:`find`, with the index.
        """
        try:
            return [self.find(value) for value in values]
        except RecordError:
            # Names of places cost as much as the search, so they are made only where one is needed.
            return [self.find(value, joined(prefix, str(index))) for index, value in enumerate(values)]


def joined(prefix: str, text: str) -> str:
    """A path below another; either may be empty."""
    return f"{prefix}.{text}" if prefix and text else prefix or text


def shown(value: Any) -> str:
    """A value of a record, for a message: its beginning where it is long."""
    return quoted(value) if isinstance(value, str | bytes) else f"{_REPR.repr(value):.80}"
