"""Public names of a package that load their modules when they are first asked for (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package; what checkers see stands beside it, under ``TYPE_CHECKING``.

    >>> get = lazy_names("shapes", {"fractions": ["Fraction"]})
    >>> get("Fraction")(2, 4)
    Fraction(1, 2)

    :param package: its ``__name__``.
    :param modules: module to the names that come from it.
    """
    sources = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(sources[name]), name)

    return load
