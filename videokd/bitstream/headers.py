"""Reads the headers of a compressed stream, to know its pictures without decoding them.

Only the few bits that an index needs are read: picture types, whether other pictures refer to a picture, and what decides
whether a chain of motion vectors is exact. For anything unusual (fields, mixed slices, several pictures in a packet) the
functions return None, and the caller decodes instead, but for "packed" MPEG-4, which header_reader.py follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

_START_CODE = b"\x00\x00\x01"
_MPEG4_VOP_TYPES = "IPbS"  # nothing refers to a B-VOP
_MPEG4_VOP = b"\x00\x00\x01\xb6"


class Bits:
    """Reads big-endian bit fields; reading past the end raises IndexError."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits as a number: u(n).

        Raises:
            IndexError: there are fewer bits.
        """
        if count > self._left:
            raise IndexError("header ends early")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """The next Exp-Golomb code: ue(v) of H.264 section 9.1.

        Raises:
            IndexError: there is none.
        """
        left = self._value & ((1 << self._left) - 1)
        zeros = self._left - left.bit_length()
        if zeros > 32 or not left:
            raise IndexError("not an Exp-Golomb code")
        self._left -= zeros + 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_exp_golomb(self) -> int:
        """The next signed Exp-Golomb code: se(v) of H.264 section 9.1.1."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True)
class Sequence:
    """What a sequence header says about its pictures.

    Args:
        references: how many frames a P-frame may refer to.
        interlaced: whether pictures may be coded as two fields.
        global_motion: MPEG-4: whether there are sprites or global motion compensation, for which FFmpeg exports no vectors.
        time_bits: MPEG-4: the length of vop_time_increment, in bits.
        ticks: MPEG-4: units of vop_time_increment in a second.
        delayed: MPEG-4: whether the header states that I- and P-pictures are shown after the B-pictures that follow them (low_delay 0).
        crop: H.264: pixels (left, top) that are coded but not shown.
        number_bits: H.264: the length of frame_num, in bits; 0 where a picture's header does not tell it, or numbers may be left out.
        disposable_p_frames: whether a P-frame that no frame refers to comes before another, which then refers to an earlier one.
    """

    references: int = 1
    interlaced: bool = False
    global_motion: bool = False
    time_bits: int = 0
    ticks: int = 0
    delayed: bool = False
    crop: tuple[int, int] = (0, 0)
    number_bits: int = 0
    disposable_p_frames: bool = False

    def joined(self, later: Sequence) -> Sequence:
        """What holds for a stream that has both this header and a later one."""
        return replace(
            self,
            references=max(self.references, later.references),
            interlaced=self.interlaced or later.interlaced,
            global_motion=self.global_motion or later.global_motion,
        )

    @property
    def inexact_because(self) -> tuple[str, ...]:
        """Why chains of motion vectors are approximations in this stream; empty if they are exact."""
        reasons = []
        if self.references > 1:
            reasons.append(f"P-frames may refer to {self.references} frames, and FFmpeg does not say to which")
        if self.interlaced:
            reasons.append("pictures may be coded as two fields")
        if self.global_motion:
            reasons.append("global motion compensation has no vectors")
        if self.disposable_p_frames:
            reasons.append("some P-frames refer to an earlier frame than the one before, to which nothing refers")
        return tuple(reasons)


def split_units(data: bytes) -> list[bytes]:
    """The pieces between start codes, without them."""
    return data.split(_START_CODE)[1:]


def heads(data: bytes, count: int) -> Iterator[bytes]:
    """The first `count` bytes after each start code; the rest of the packet is not copied."""
    at = data.find(_START_CODE)
    while at >= 0:
        yield data[at + 3 : at + 3 + count]
        at = data.find(_START_CODE, at + 3)


def nal_units(data: bytes, length_size: int, count: int | None = None) -> Iterator[bytes]:
    """NAL units of a packet: with length prefixes (MP4, Matroska) or, for `length_size` 0, with start codes (Annex B).

    Args:
        data: the packet.
        length_size: bytes of a prefix.
        count: how many bytes of each unit are wanted; None: all.

    Yields:
        The units, without prefixes and start codes.
    """
    if not length_size:
        yield from split_units(data) if count is None else heads(data, count)
        return
    at = 0
    while at + length_size <= len(data):
        length = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        yield data[at : at + (length if count is None else min(length, count))]
        at += length


def unescape(unit: bytes) -> bytes:
    """Without emulation prevention bytes (H.264 section 7.4.1)."""
    return unit.replace(b"\x00\x00\x03", b"\x00\x00")


def mpeg4_sequence(extradata: bytes, packet: bytes) -> Sequence | None:
    """The video object layer of an MPEG-4 stream (ISO/IEC 14496-2 section 6.2.3).

    Args:
        extradata: from the container's header.
        packet: the content of a packet.

    Returns:
        The first one; None if there is none, or its shape is not rectangular.

    Raises:
        IndexError: it is damaged.
    """
    before_picture, _, _ = packet.partition(
        _MPEG4_VOP
    )  # the layer comes before the picture; the rest need not be searched
    for unit in (*split_units(extradata), *heads(before_picture, 64)):
        if unit and 0x20 <= unit[0] <= 0x2F:
            return _mpeg4_layer(Bits(unit[1:64]))
    return None


def _mpeg4_layer(bits: Bits) -> Sequence | None:
    bits.take(1 + 8)
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == 15:
        bits.take(16)
    delayed = False
    if bits.take(1):
        bits.take(2)
        delayed = not bits.take(1)
        if bits.take(1):
            bits.take(79)
    if bits.take(2):
        return None
    bits.take(1)
    resolution = bits.take(16)
    bits.take(1)
    time_bits = max((resolution - 1).bit_length(), 1)
    if bits.take(1):
        bits.take(time_bits)
    bits.take(1 + 13 + 1 + 13 + 1)
    interlaced = bool(bits.take(1))
    bits.take(1)
    sprite = bits.take(1 if version == 1 else 2)
    return Sequence(
        interlaced=interlaced, global_motion=bool(sprite), time_bits=time_bits, ticks=resolution, delayed=delayed
    )


def mpeg4_picture(packet: bytes, time_bits: int) -> str | None:
    """The type of the picture in an MPEG-4 packet (ISO/IEC 14496-2 section 6.2.5).

    Args:
        packet: its content.
        time_bits: the length of vop_time_increment, from the layer.

    Returns:
        I, P, S, or b (no picture refers to a B-VOP); None if there are several pictures ("packed" XviD), none, or one that is not
        coded.

    Raises:
        IndexError: the header ends early.
    """
    at = packet.rfind(_MPEG4_VOP)
    if at < 0 or packet.find(_MPEG4_VOP, 0, at + 3) >= 0:
        return None
    head = packet[at + 4 : at + 35]
    bits, left = int.from_bytes(head, "big"), 8 * len(head) - 3
    while left > 0 and bits >> left & 1:  # a whole second since the last picture
        left -= 1
    left -= 1 + time_bits + 1 + 1
    if left < 0:
        raise IndexError("header ends early")
    coded = bits >> left & 1
    return _MPEG4_VOP_TYPES[bits >> 8 * len(head) - 2] if coded else None


def end_of_first_vop(packet: bytes) -> int:
    """Where the second picture of an MPEG-4 packet begins; 0 if it has only one."""
    first = packet.find(_MPEG4_VOP)
    return max(packet.find(_MPEG4_VOP, first + 4), 0) if first >= 0 else 0


def mpeg12_sequence(packet: bytes) -> Sequence | None:
    """The sequence header of an MPEG-1 or MPEG-2 packet, None if there is none.

    The stream is progressive unless a sequence extension says otherwise (ISO/IEC 13818-2 section 6.2.2.3).
    """
    units = list(heads(packet, 8))
    if not any(unit[:1] == b"\xb3" for unit in units):
        return None
    extensions = [Bits(unit[1:8]) for unit in units if unit[:1] == b"\xb5" and unit[1] >> 4 == 1]
    for bits in extensions:
        bits.take(4 + 8)
        if not bits.take(1):
            return Sequence(interlaced=True)
    return Sequence()


def mpeg12_picture(packet: bytes) -> str | None:
    """The type of the picture in an MPEG-1 or MPEG-2 packet (ISO/IEC 13818-2 section 6.2.3): I, P or b; None if there is not one."""
    pictures = [head for head in heads(packet, 3) if head[:1] == b"\x00"]
    if len(pictures) != 1:
        return None
    bits = Bits(pictures[0][1:])
    bits.take(10)
    kind = bits.take(3)
    return {1: "I", 2: "P", 3: "b"}.get(kind)


def flv_picture(packet: bytes) -> str | None:
    """The type of the picture in a packet of Sorenson's H.263 (Adobe's SWF file format specification, H263VIDEOPACKET).

    Returns:
        I, P, or p for a P-picture that no picture refers to ("disposable"); None if there is no start code.
    """
    bits = Bits(packet[:12])
    if bits.take(17) != 1:
        return None
    bits.take(5 + 8)
    bits.take({0: 16, 1: 32}.get(bits.take(3), 0))
    return {0: "I", 1: "P", 2: "p"}.get(bits.take(2))
