"""Refuses an MP4 whose tables claim more samples than the file has bytes.

FFmpeg believes the table of sample sizes (stsz) where all have one size, and makes an entry of 12 bytes or more for each: a file
of 150 kB that claims 2^26 samples took 850 MiB to open (FFmpeg 8.1).
"""

from __future__ import annotations

from collections.abc import Iterator

from videokd.bitstream.encryption import ENCRYPTED_ENTRIES, encrypted
from videokd.bitstream.source import Readable, Source
from videokd.errors import DecodeError

_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx")
_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
# Bytes of a box's content before its number of entries (ISO/IEC 14496-12, 8.6.1, 8.7.3, 8.7.5 and 8.8.8)
_COUNT_AT = {b"stsz": 8, b"stts": 4, b"ctts": 4, b"stss": 4, b"stco": 4, b"co64": 4, b"stsc": 4, b"trun": 4, b"stsd": 4}
_MOST_BOXES = 100_000


def check_tables(source: Source) -> None:
    """Checks the tables of an MP4; files of other formats pass.

    Args:
        source: of the video.

    Raises:
        DecodeError: a table claims more entries than the file has bytes, or the video is encrypted.
    """
    with source.open() as file:
        size = source.size
        if file.read(8)[4:] not in _FIRST_BOXES:
            return
        for kind, content in _boxes(file, 0, size):
            file.seek(content + _COUNT_AT[kind])
            count = int.from_bytes(file.read(4), "big")
            if count > size:
                raise DecodeError(
                    f"{source} is damaged: its {kind.decode()} table claims {count} entries (accepted: up to the {size} bytes "
                    "of the file). Copy the file again."
                )
            if kind == b"stsd" and file.read(8)[4:] in ENCRYPTED_ENTRIES:
                raise encrypted(source)


def _boxes(file: Readable, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """(type, first byte of its content) of every table between two bytes of a file, at any depth."""
    waiting = [(start, end)]
    for _ in range(_MOST_BOXES):
        if not waiting:
            return
        at, end = waiting.pop()
        if at + 8 > end:
            continue
        file.seek(at)
        head = file.read(16)
        length, kind, content = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if length == 1:
            length, content = int.from_bytes(head[8:], "big"), at + 16
        if length == 0:
            length = end - at
        if length >= 8:
            waiting.append((at + length, end))
        if kind in _CONTAINERS:
            waiting.append((content, min(at + length, end)))
        elif kind in _COUNT_AT:
            yield kind, content
