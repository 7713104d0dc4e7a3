"""What every kernel file builds on: the compile decorator, argument types, and arrays over raw addresses.

Chunks and segments are added one by one and never move, so a kernel gets an array of their addresses instead of
the arrays: growth adds an address and no kernel is compiled again for it. Inputs are declared read-only, which
accepts both the decoder's read-only views and writable arrays with one specialisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# numba ships partial types; what it does not export for checkers is reached through Any.
_numba: Any = numba
_types: Any = types
_cgutils: Any = cgutils
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


def kernel(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compiles one specialisation, cached on disk, that runs without the interpreter lock."""

    def compile_one(function: F) -> F:
        compiled: Any = numba.njit(result(*arguments), cache=True, nogil=True, error_model="numpy")(function)
        return cast(F, compiled)

    return compile_one


def helper(function: F) -> F:
    """A function that kernels inline; compiled with whichever kernel calls it.

    A kernel's disk cache is keyed by the kernel's own file only: after an edit here, touch the kernel files.
    """
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
