"""Tools of the compiled loops: a decorator, and functions that copy a fixed number of bytes with a few vector instructions.

LLVM does not compile a plain loop over 16 elements to that: it does not know that the two arrays do not overlap, so it adds a test to
every row. Here all bytes are loaded before any is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_BYTE = ir.IntType(8)


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function with Numba at its first call (1.6 s for all of codec/), or loads it from Numba's cache (0.1 s).

    The cache is beside the module, or in the user's cache folder if that is read-only. If neither can be written, there is no
    cache: Numba would raise an error at import.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def _mover(num_bytes: int) -> Any:
    """A compiled function (to, to_byte, source, source_byte) that copies `num_bytes`; byte offsets are uint64, and not checked."""

    def declare(typing_context: Any, to: Any, to_byte: Any, source: Any, source_byte: Any) -> Any:
        return types.void(to, types.uint64, source, types.uint64), generate

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(argument: int, offset: int, vector: Any) -> Any:
            array = context.make_array(signature.args[argument])(context, builder, arguments[argument])
            start = builder.gep(builder.bitcast(array.data, _BYTE.as_pointer()), [arguments[argument + 1]])
            return builder.bitcast(builder.gep(start, [ir.Constant(ir.IntType(64), offset)]), ir.PointerType(vector))

        loaded = []
        offset = 0
        while offset < num_bytes:
            size = next(size for size in (32, 16, 8) if size <= num_bytes - offset)
            vector = ir.VectorType(_BYTE, size)
            loaded.append((offset, vector, builder.load(pointer(2, offset, vector), align=1)))
            offset += size
        for offset, vector, value in loaded:
            builder.store(value, pointer(0, offset, vector), align=1)
        return context.get_dummy_value()

    return intrinsic(declare)


move_16_sources = _mover(64)
move_8_sources = _mover(32)
move_16_pixels = _mover(48)
move_8_pixels = _mover(24)
move_16_flags = _mover(16)
move_8_flags = _mover(8)
