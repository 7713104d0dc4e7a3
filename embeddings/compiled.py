"""What every kernel file builds on: the compile decorator, argument types, and arrays over raw addresses.

Chunks and segments are added one by one and never move, so a kernel gets an array of their addresses instead of
the arrays: growth adds an address and no kernel is compiled again for it. Inputs are declared read-only, which
accepts both the decoder's read-only views and writable arrays with one specialisation.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core import caching, cgutils
from numba.extending import intrinsic

# numba ships partial types; what it does not export for checkers is reached through Any.
_numba: Any = numba
_types: Any = types
_cgutils: Any = cgutils
_caching: Any = caching
carray = _numba.carray

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

INT64 = types.int64
FLOAT32 = types.float32
FLOAT64 = types.float64
#: writable arrays
INT64S = types.Array(types.int64, 1, "C")
UINT8S = types.Array(types.uint8, 1, "C")
UINT64S = types.Array(types.uint64, 1, "C")
UINT16S = types.Array(types.uint16, 1, "C")
FLOAT32S_2D = types.Array(types.float32, 2, "C")
#: inputs, only read
IN_INT64S = types.Array(types.int64, 1, "C", readonly=True)
IN_UINT16S = types.Array(types.uint16, 1, "C", readonly=True)
IN_FLOAT32S = types.Array(types.float32, 1, "C", readonly=True)
IN_FLOAT32S_2D = types.Array(types.float32, 2, "C", readonly=True)


def sources_digest(files: Iterable[Path]) -> str:
    """Changes with the text of any of the files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        text = file.read_bytes()
        digest.update(f"{file.name} {len(text)} ".encode() + text)
    return digest.hexdigest()


#: what kernels are made of: these files may take constants and helpers from each other, and from no other file
KERNEL_FILES = (Path(__file__), *Path(__file__).parent.glob("*_kernels.py"))
_DIGEST = sources_digest(KERNEL_FILES)


class _CacheFile(_caching.IndexDataCacheFile):  # type: ignore[misc]
    """numba's files of one kernel, without its trust in them.

    Processes that write at once, of two texts or processors, may leave the index of one with the machine code of the other, so
    the code says what it is of. What a lost machine or a full disk has left is compiled anew.
    """

    def load(self, key: Any) -> Any:
        """The compiled kernel; None where there is none that is known to be of this text, signature and processor."""
        of, data = super().load(key) or (None, None)
        return data if of == (self._source_stamp, key) else None

    def save(self, key: Any, data: Any) -> None:
        """Keeps it, if there is room."""
        try:
            super().save(key, ((self._source_stamp, key), data))
        except OSError as error:
            log.warning("a compiled kernel cannot be kept, so that the next start compiles it again: %s", error)

    def _load_index(self) -> Any:
        return self._read(super()._load_index, self._index_path, {})

    def _load_data(self, name: str) -> Any:
        return self._read(lambda: super(_CacheFile, self)._load_data(name), self._data_path(name), None)

    @staticmethod
    def _read(read: Callable[[], Any], path: str, otherwise: Any) -> Any:
        try:
            return read()
        except FileNotFoundError:
            return otherwise
        except Exception as error:
            log.warning("%s cannot be used, its kernel is compiled anew: %s: %s", path, type(error).__name__, error)
            return otherwise


class KernelCache(_caching.FunctionCache):  # type: ignore[misc]
    """numba's cache on disk, good for one text of all kernel files.

    By itself numba asks for the time and size of the kernel's own file. A constant or a helper in another file is compiled into
    the kernel all the same, and a stale one gives wrong results silently.

    :raises RuntimeError: there is no folder that may be written to.
    """

    def __init__(self, function: Callable[..., Any], digest: str = _DIGEST) -> None:
        super().__init__(function)
        self._cache_file = _CacheFile(self._cache_path, self._impl.filename_base, digest)


@cache
def _warn_of_no_folder() -> None:
    """Once, not for each kernel."""
    log.warning(
        "compiled kernels cannot be kept, so that each start compiles them: neither the folder of the package nor the user's"
        " cache folder can be written to; set NUMBA_CACHE_DIR to one that can"
    )


def kernel(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compiles one specialisation, cached on disk, that runs without the interpreter lock."""

    def compile_one(function: F) -> F:
        compiled = helper(cast(Any, function))
        try:
            compiled._cache = KernelCache(function)
        except RuntimeError:
            _warn_of_no_folder()
        compiled.compile(result(*arguments))
        compiled.disable_compile()
        return cast(F, compiled)

    return compile_one


def helper(function: F) -> F:
    """A function that kernels inline; compiled with whichever kernel calls it."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    return cast(F, compiled)


def _pointer(element: Any) -> Any:
    def to_pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return _types.CPointer(element)(address), generate

    return intrinsic(to_pointer)


_int64_pointer = _pointer(types.int64)
_float32_pointer = _pointer(types.float32)


def _prefetch(typing_context: Any, address: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        ir = _cgutils.ir
        byte = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        declared = _cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]), "llvm.prefetch.p0"
        )
        # read, keep in all cache levels, data
        builder.call(declared, [builder.inttoptr(arguments[0], byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return _types.void(address), generate


#: asks for the cache line at an address (int64), which will be read or written soon; never faults
prefetch: Any = intrinsic(_prefetch)


@helper
def int64s_at(address: Any, count: Any) -> Any:
    """int64[count] over the memory at an address."""
    return carray(_int64_pointer(address), (count,))


@helper
def float32s_at(address: Any, count: Any) -> Any:
    """float32[count] over the memory at an address."""
    return carray(_float32_pointer(address), (count,))
