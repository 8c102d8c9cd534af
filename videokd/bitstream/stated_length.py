"""How many bytes a video file should have according to its headers: if there are fewer, it was cut off.

Each function takes the open file and its first bytes, and returns the byte where the file should end, or None if it is not stated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from videokd.bitstream.source import Readable, Source

_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"  # RFC 8794, RFC 9559
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # ASF specification, section 10.1
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MXF = bytes.fromhex("060e2b34020501010d010201010200")[:13]
_PACK = b"\0\0\1\xba"
_INSIDE_PES = [bytes([code]) for code in range(0xB9)]  # start codes of pictures
_FLV_SIZE = b"\0\x08filesize\0"
_EMPTY_ASF_DATA = 50
_UNFINISHED = 0xFFFFFF00
_MOST_CHUNKS = 1000
_LARGEST_ELEMENT_HEAD = 12
_TAIL = 1 << 17
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255


def stated_bytes(source: Source) -> int | None:
    """How many bytes a file should have.

    Args:
        source: of the video.

    Returns:
        What its headers state, or the end of the last packet that it began; None if neither is known.
    """
    with source.open() as file:
        head = file.read(4096).ljust(4096, b"\0")
        read = next((read for (at, signature), read in _HEADERS.items() if head.startswith(signature, at)), None)
        return None if read is None else read(file, head)


def _size_of(file: Readable) -> int:
    return file.seek(0, os.SEEK_END)


def _element_size(head: bytes, at: int) -> tuple[int | None, int]:
    """(size of an EBML element, where its content starts); the size is None if it is unknown, as in live streams."""
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _end_of_matroska(file: Readable, head: bytes) -> int | None:
    """The end of the segment; in a live stream, whose segments and clusters have no known size, that of the last element."""
    at, end, whole = 0, _size_of(file), False
    while at + _LARGEST_ELEMENT_HEAD <= end:
        file.seek(at)
        head = file.read(_LARGEST_ELEMENT_HEAD)
        id_width = 9 - head[0].bit_length()
        if not head[0] or id_width > 4:
            return None  # damaged, which is not this function's task to report
        size, content = _element_size(head, id_width)
        if (size is None and head[:4] not in (_SEGMENT, _CLUSTER)) or (whole and head[:4] != _EBML):
            return None
        whole = head[:4] == _SEGMENT and size is not None  # only another segment may follow
        at += content + (size or 0)
    return at if at > end else None


def _end_of_avi(file: Readable, head: bytes) -> int | None:
    """The end of the list of pictures; recordings that were never finished state 0 or the largest size."""
    at = 12
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(12)
        if len(head) < 12:
            return None
        size = int.from_bytes(head[4:8], "little")
        if head[:4] == b"LIST" and head[8:] == b"movi":
            return None if size <= 4 or size >= _UNFINISHED else at + 8 + size
        at += 8 + size + size % 2
    return None


def _end_of_asf(file: Readable, head: bytes) -> int | None:
    """The end of the data object, which follows the header object."""
    at = int.from_bytes(head[16:24], "little")
    file.seek(min(at, 1 << 40))
    data = file.read(24)
    size = int.from_bytes(data[16:], "little")
    return at + size if data[:16] == _ASF_DATA and size > _EMPTY_ASF_DATA else None


def _end_of_flv(_: Readable, head: bytes) -> int | None:
    """`filesize` of the metadata."""
    at = head.find(_FLV_SIZE)
    if not 0 <= at < len(head) - 32:
        return None
    (size,) = struct.unpack_from(">d", head, at + len(_FLV_SIZE))
    return int(size) if 0 < size < 1 << 62 else None


def _end_of_swf(_: Readable, head: bytes) -> int | None:
    """The length, which a compressed file ("CWS") states uncompressed."""
    return int.from_bytes(head[4:8], "little")


def _end_of_mxf(_: Readable, head: bytes) -> int | None:
    """The start of the footer, which stands 24 bytes into the header partition (SMPTE 377-1, table 5); 0 means unknown."""
    content = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
    footer = int.from_bytes(head[content + 24 : content + 32], "big")
    return footer + 1 if footer else None


def _end_of_fragmented_mp4(file: Readable, _: bytes) -> int | None:
    """The end of the last fragment that was begun; files without fragments list their samples instead."""
    at, end, in_fragment = 0, _size_of(file), False
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        in_fragment |= kind == b"moof"
        if size < 8 or kind not in (
            b"moof",
            b"mdat",
            b"moov",
            b"ftyp",
            b"styp",
            b"sidx",
            b"free",
            b"prft",
            b"emsg",
            b"mfra",
        ):
            return None
        at += size
    return at if in_fragment and at > end else None


def _end_of_ogg(file: Readable, _: bytes) -> int | None:
    """The end of the last page (RFC 3533, section 6)."""
    start = max(_size_of(file) - _LARGEST_OGG_PAGE, 0)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS\0")
    if at < 0 or at + 27 > len(tail):
        return None
    lacing = tail[at + 27 : at + 27 + tail[at + 26]]
    return start + at + 27 + tail[at + 26] + sum(lacing)


def _end_of_program_stream(file: Readable, _: bytes) -> int | None:
    """The end of the last PES packet (ISO/IEC 13818-1, 2.5.3): from a pack close to the end, packet after packet."""
    start = max(_size_of(file) - _TAIL, 0)
    file.seek(start)
    tail = file.read()
    at = tail.find(_PACK)
    while at >= 0 and tail.startswith(_PACK[:3], at) and tail[at + 3 : at + 4] not in _INSIDE_PES:
        at += _system_packet_size(tail[at : at + 14])
    return start + at if at > len(tail) else None


def _system_packet_size(head: bytes) -> int:
    """Bytes of a pack header, a PES packet or the end code, given its first 14 bytes; more than there are if it is cut off."""
    kind = head[3:4]
    if kind == b"\xb9":
        return 4
    if kind == _PACK[3:]:
        is_mpeg1 = len(head) > 4 and head[4] >> 6 == 0
        return 12 if is_mpeg1 else 14 + (head[13] & 7 if len(head) == 14 else 0)
    return 6 + int.from_bytes(head[4:6], "big")


_HEADERS: dict[tuple[int, bytes], Callable[[Readable, bytes], int | None]] = {
    (0, _EBML): _end_of_matroska,
    (0, b"RIFF"): _end_of_avi,
    (0, _ASF): _end_of_asf,
    (0, b"FLV"): _end_of_flv,
    (0, b"FWS"): _end_of_swf,
    (0, _MXF): _end_of_mxf,
    (0, b"OggS"): _end_of_ogg,
    (0, _PACK): _end_of_program_stream,
    (4, b"ftyp"): _end_of_fragmented_mp4,
    (4, b"styp"): _end_of_fragmented_mp4,
}
