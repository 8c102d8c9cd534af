"""What the bytes of an ONNX file say, before any runtime sees them: whether they are one, and whether they name other files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from videokd.errors import DataError

# ONNX's messages (onnx.proto, https://github.com/onnx/onnx): in which fields each holds another. Everything else is skipped.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor
_DEEPEST = 60  # of messages in messages; a loop in a loop is 8 deep
_MOST_PARTS = 1_000_000  # nodes, tensors and the like; large students have some ten thousand
#: The last field of a file that `sealed` gave: the text `sha256` of `metadata_props`, and in it so many digits.
_SEAL, _DIGITS = b"\x72\x4a\x0a\x06sha256\x12\x40", 64


def sealed(content: bytes) -> bytes:
    """ONNX with one more text, by which `check_onnx` sees whether a byte before it has changed.

    Args:
        content: of an ONNX file.
    """
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def check_onnx(content: bytes) -> None:
    """Refuses what is not ONNX, or damaged, and what has weights in other files: a runtime would look for them, also by hostile names.

    Damage is seen in files that `sealed` ended, of which a few changed bytes may otherwise change answers and nothing else.

    Args:
        content: of the file.

    Raises:
        DataError: says what is wrong; the caller names the file.
    """
    if not content:
        raise DataError("it is empty")
    end = len(content) - len(_SEAL) - _DIGITS
    if content[end : end + len(_SEAL)] == _SEAL and content != sealed(content[:end]):
        raise DataError(
            "it is damaged: its bytes are not those that its text sha256 is of (accepted: the file as it was written)"
        )
    waiting, parts = [("model", memoryview(content), 0)], 0
    while waiting:
        kind, message, depth = waiting.pop()
        parts += 1
        if parts + len(waiting) > _MOST_PARTS:
            raise DataError(f"it has more than {_MOST_PARTS} parts")
        if depth > _DEEPEST:
            raise DataError("its graphs are nested too deeply")
        for field, value in _fields(message):
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
                raise DataError("it has weights in another file (accepted: all in one)")
            if isinstance(value, memoryview) and field in _INSIDE[kind]:
                waiting.append((_INSIDE[kind][field], value, depth + 1))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a message of protobuf (https://protobuf.dev/programming-guides/encoding)."""
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        wire, size = key & 7, 0
        if wire == 0:
            value, place = _number(message, place)
            yield key >> 3, value
            continue
        if wire == 2:
            size, place = _number(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise DataError("it is damaged, or not ONNX")
        if size > len(message) - place:
            raise DataError("it is cut off, or not ONNX")
        yield key >> 3, message[place : place + size]
        place += size


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    number = 0
    for count, byte in enumerate(message[place : place + 10]):
        number |= (byte & 127) << (7 * count)
        if byte < 128:
            return number, place + count + 1
    raise DataError("it is cut off, or not ONNX")
