"""What every kernel file builds on: the compile decorator, argument types, and arrays over raw addresses.

Chunks and segments are added one by one and never move, so a kernel gets an array of their addresses instead of
the arrays: growth adds an address and no kernel is compiled again for it. Inputs are declared read-only, which
accepts both the decoder's read-only views and writable arrays with one specialisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
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

F = TypeVar("F", bound=Callable[..., Any])

INT64 = types.int64
FLOAT32 = types.float32
FLOAT64 = types.float64
#: writable arrays
INT64S = types.Array(types.int64, 1, "C")
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


class KernelCache(_caching.FunctionCache):  # type: ignore[misc]
    """numba's cache on disk, good for one text of all kernel files.

    By itself numba asks for the time and size of the kernel's own file. A constant or a helper in another file is compiled into
    the kernel all the same, and a stale one gives wrong results silently.
    """

    def __init__(self, function: Callable[..., Any], digest: str = _DIGEST) -> None:
        super().__init__(function)
        self._cache_file = _caching.IndexDataCacheFile(self._cache_path, self._impl.filename_base, digest)


def kernel(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compiles one specialisation, cached on disk, that runs without the interpreter lock."""

    def compile_one(function: F) -> F:
        compiled = helper(cast(Any, function))
        compiled._cache = KernelCache(function)
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
