"""What a decoder keeps from packet to packet besides pictures, so that it may not be able to start at every keyframe.

Parameter sets and tables are usually repeated with each keyframe, or stand in the container's header. If a file changes them
midway, or gives them only once, decoding that starts later gives wrong pictures, often without an error. FFmpeg also corrects the
errors of old encoders, whose name is only in the first packet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from videokd.bitstream.headers import Bits, heads, nal_units, unescape

#: Codecs in which no picture after a keyframe refers to one before it, except those that are shown before the keyframe.
STARTS_AT_KEYFRAMES = (
    *("mpeg4", "h264", "mpeg1video", "mpeg2video", "h263", "h263p", "h263i", "flv", "hevc", "vp8", "vp9", "av1"),
    *("libdav1d", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "rv10", "rv20", "libaom-av1"),
)
Entries = Iterator[tuple[object, bytes]]

# FFmpeg's decoder corrects errors of x264 up to these builds: in 4:4:4 pictures up to 150, in direct B-blocks up to 33
_X264_BUILD = re.compile(rb"x264 - core (\d+)")
_LAST_WRONG_444, _LAST_WRONG_DIRECT = 150, 33
# User data by which FFmpeg recognises the encoders whose MPEG-4 it corrects
_MPEG4_ENCODERS = (b"DivX", b"XviD", b"Lavc", b"FFmpe", b"ffmpeg")
_MPEG4_VOP, _MPEG12_PICTURE = b"\x00\x00\x01\xb6", b"\x00\x00\x01\x00"
_LONGEST_SET = 1 << 12
# Markers of JPEG: start and end of an image, of its first scan, of Huffman and quantisation tables
_WITHOUT_LENGTH, _SCAN, _TABLES = (0xD8, 0xD9), 0xDA, (0xC4, 0xDB)


class CarriedState:
    """Tracks what a decoder keeps through a file, packet by packet.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: from the container's header; a decoder has it wherever it starts.
        pixel_format: FFmpeg's name, such as yuv420p.
    """

    def __init__(self, codec: str, extradata: bytes, pixel_format: str) -> None:
        self._read: Callable[[bytes], Entries] = _READERS.get(codec, _no_entries)
        first = self._read(extradata)
        if codec in ("h264", "hevc"):
            length_size, units = _length_size_and_units(codec, extradata)
            newest_x264 = (
                _LAST_WRONG_444 if pixel_format.startswith(("yuv444", "yuvj444", "gbr")) else _LAST_WRONG_DIRECT
            )
            sets = _hevc_sets if codec == "hevc" else partial(_h264_sets, newest_x264=newest_x264)
            self._read = lambda packet: sets(nal_units(packet, length_size, count=_LONGEST_SET))
            first = sets(units) if length_size else self._read(extradata)
        self._initial = dict(first)
        self._now = dict(self._initial)
        self._varying: set[object] = set()
        self._in_every_keyframe: set[object] | None = None

    def take(self, packet: bytes, *, keyframe: bool) -> tuple[bool, bool]:
        """Takes the next packet.

        Args:
            packet: its content.
            keyframe: whether the container flags it as a keyframe.

        Returns:
            (whether a decoder that starts here knows as much as one that started at the start of the file,
            whether the packet changes what a decoder knows).
        """
        try:
            own = dict(self._read(packet))
        except IndexError:  # decoding must not start after headers that cannot be read
            own = {"damaged": packet}
        if keyframe:
            before = self._in_every_keyframe
            self._in_every_keyframe = set(own) if before is None else before & set(own)
        if not own:
            return self._now == self._initial, False
        changed = {name for name, value in own.items() if self._now.get(name) != value}
        self._varying |= changed
        self._now |= own
        return self._initial | own == self._now, bool(changed)

    @property
    def outlives_keyframes(self) -> bool:
        """Whether a decoder that has read one part of the file may decode another part wrongly."""
        return not self._varying <= (self._in_every_keyframe or set())


def _no_entries(packet: bytes) -> Entries:
    return iter(())


def _length_size_and_units(codec: str, extradata: bytes) -> tuple[int, list[bytes]]:
    """Bytes of a length prefix, and the units, of an avcC or hvcC record (ISO/IEC 14496-15); (0, []) for Annex B."""
    counts_at = {"h264": 5, "hevc": 22}[codec]
    if len(extradata) <= counts_at or extradata[0] != 1:
        return 0, []
    units: list[bytes] = []
    at, arrays = counts_at, 2
    if codec == "hevc":
        arrays = extradata[at]
        at += 1
    for _ in range(arrays):
        at += codec == "hevc"
        size = 1 if codec == "h264" else 2
        count = int.from_bytes(extradata[at : at + size], "big") & (31 if codec == "h264" else 0xFFFF)
        at += size
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            units.append(extradata[at + 2 : at + 2 + length])
            at += 2 + length
    return (extradata[4 if codec == "h264" else 21] & 3) + 1, units


def _h264_sets(units: Iterable[bytes], *, newest_x264: int) -> Entries:
    """Parameter sets by their numbers (H.264 sections 7.3.2.1 and 7.3.2.2), and the build of an x264 that FFmpeg corrects."""
    for unit in map(_first_unit, units):
        kind = unit[0] & 31 if unit else 0
        if kind in (7, 8):
            head = Bits(unescape(unit[1:24]))
            if kind == 7:
                head.take(24)
            yield (kind, head.exp_golomb()), unit
        elif kind == 6 and (found := _X264_BUILD.search(unit)) and int(found[1]) <= newest_x264:
            yield "x264", found[1]


def _hevc_sets(units: Iterable[bytes]) -> Entries:
    """Parameter sets: those of pictures by their numbers (H.265 section 7.3.2.3), one each of the others."""
    for unit in map(_first_unit, units):
        kind = unit[0] >> 1 & 63 if unit else 0
        if kind in (32, 33, 34):
            yield (kind, Bits(unescape(unit[2:8])).exp_golomb() if kind == 34 else 0), unit


def _first_unit(unit: bytes) -> bytes:
    """A unit without the units or the padding after it."""
    return unit.partition(b"\x00\x00\x01")[0].rstrip(b"\x00")


def _mpeg4_headers(data: bytes) -> Entries:
    """The layer's headers, and the encoder's name, before the first picture (ISO/IEC 14496-2 section 6.2.2)."""
    for unit in map(_first_unit, heads(data.partition(_MPEG4_VOP)[0], _LONGEST_SET)):
        code = unit[0] if unit else 0
        if 0x20 <= code <= 0x2F:
            yield code, unit
        elif code == 0xB2 and unit[1:].startswith(_MPEG4_ENCODERS):
            yield (code, unit[1:5]), unit  # FFmpeg remembers several encoders: XviD also calls itself DivX


def _mpeg12_headers(data: bytes) -> Entries:
    """The sequence header and the sequence extension (ISO/IEC 13818-2 section 6.2.2)."""
    for unit in map(_first_unit, heads(data.partition(_MPEG12_PICTURE)[0], _LONGEST_SET)):
        code, extension = unit[0] if unit else 0, unit[1] >> 4 if len(unit) > 1 else 0
        if code == 0xB3 or (code == 0xB5 and extension == 1):
            yield code, unit


def _jpeg_tables(data: bytes) -> Entries:
    """Quantisation and Huffman tables by their numbers (ITU-T T.81 section B.2.4)."""
    at = 0
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _TABLES:
            yield (marker, data[at + 4 : at + 5]), data[at + 4 : at + 2 + length]
        at += 2 if marker in _WITHOUT_LENGTH else 2 + length


_READERS: dict[str, Callable[[bytes], Entries]] = {
    "mpeg4": _mpeg4_headers,
    "mpeg1video": _mpeg12_headers,
    "mpeg2video": _mpeg12_headers,
    "mjpeg": _jpeg_tables,
}
