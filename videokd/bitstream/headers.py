"""What the headers of a compressed stream say about its pictures, without decoding them.

Only the few bits that an index needs are read: picture types, whether a picture may be dropped, and the facts that
decide whether a chain of motion vectors is exact. Whatever is not plain (fields, mixed slices, several pictures in a
packet) is answered with None, and the caller decodes instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

_START_CODE = b"\x00\x00\x01"
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
# H.264 table 7-6: slice_type modulo 5; SP counts as P and SI as I
_H264_SLICE_TYPES = "PBIPI"
_MPEG4_VOP_TYPES = "IPbS"  # nothing refers to a B-VOP
# Bytes that hold a sequence parameter set as far as it is read, scaling lists included
_LONGEST_SPS = 1024
_LONGEST_SEI = 4096
_RECOVERY_POINT = 6
_MPEG4_VOP = b"\x00\x00\x01\xb6"


class Bits:
    """Reads big-endian bit fields; reading past the end raises IndexError."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """u(n): the next bits as a number."""
        if count > self._left:
            raise IndexError("header ends early")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """ue(v) of H.264 section 9.1."""
        left = self._value & ((1 << self._left) - 1)
        zeros = self._left - left.bit_length()
        if zeros > 32 or not left:
            raise IndexError("not an Exp-Golomb code")
        self._left -= zeros + 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_exp_golomb(self) -> int:
        """se(v) of H.264 section 9.1.1."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True)
class Sequence:
    """What a sequence header says about its pictures.

    Args:
        references: how many frames a P-frame may refer to.
        interlaced: whether fields may be coded apart.
        global_motion: MPEG-4 sprites or global motion compensation, of which no vectors are exported.
        time_bits: MPEG-4: the length of vop_time_increment, in bits.
        crop: H.264: pixels (left, top) that are coded but not shown.
        passes_over: whether a P-frame that nothing refers to is followed by one that refers to an earlier frame.
    """

    references: int = 1
    interlaced: bool = False
    global_motion: bool = False
    time_bits: int = 0
    crop: tuple[int, int] = (0, 0)
    passes_over: bool = False

    def joined(self, later: Sequence) -> Sequence:
        """What holds for a stream of which a part has this header, and a part a later one."""
        return replace(
            self,
            references=max(self.references, later.references),
            interlaced=self.interlaced or later.interlaced,
            global_motion=self.global_motion or later.global_motion,
        )

    @property
    def inexact_because(self) -> tuple[str, ...]:
        """Why chains of motion vectors are approximations in this stream; empty where they are exact."""
        reasons = []
        if self.references > 1:
            reasons.append(f"P-frames may refer to {self.references} frames, and FFmpeg does not say to which")
        if self.interlaced:
            reasons.append("pictures may be coded as two fields")
        if self.global_motion:
            reasons.append("global motion compensation has no vectors")
        if self.passes_over:
            reasons.append("some P-frames refer to an earlier frame than the one before, to which nothing refers")
        return tuple(reasons)


def split_units(data: bytes) -> list[bytes]:
    """The pieces between start codes, without them."""
    return data.split(_START_CODE)[1:]


def heads(data: bytes, count: int) -> Iterator[bytes]:
    """The first bytes after each start code; the rest of a packet is never copied."""
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


def _skip_scaling_lists(bits: Bits, chroma_format: int) -> None:
    for index in range(8 if chroma_format != 3 else 12):
        if not bits.take(1):
            continue
        last, following = 8, 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.signed_exp_golomb()) % 256
            last = following or last


def _h264_sps(unit: bytes) -> Sequence:
    """seq_parameter_set_data, H.264 section 7.3.2.1.1, as far as the frame_crop offsets."""
    bits = Bits(unescape(unit[1:]))
    profile = bits.take(8)
    bits.take(16)
    bits.exp_golomb()
    chroma_format = 1
    if profile in _HIGH_PROFILES:
        chroma_format = bits.exp_golomb()
        if chroma_format == 3:
            bits.take(1)
        bits.exp_golomb()
        bits.exp_golomb()
        bits.take(1)
        if bits.take(1):
            _skip_scaling_lists(bits, chroma_format)
    bits.exp_golomb()
    order_type = bits.exp_golomb()
    if order_type == 0:
        bits.exp_golomb()
    elif order_type == 1:
        bits.take(1)
        bits.signed_exp_golomb()
        bits.signed_exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.signed_exp_golomb()
    references = bits.exp_golomb()
    bits.take(1)
    bits.exp_golomb()
    bits.exp_golomb()
    interlaced = not bits.take(1)
    bits.take(1 + interlaced)
    left = top = 0
    if bits.take(1):
        left = bits.exp_golomb() * (2 if chroma_format in (1, 2) else 1)
        bits.exp_golomb()
        top = bits.exp_golomb() * (2 if chroma_format == 1 else 1) * (1 + interlaced)
    return Sequence(references=max(references, 1), interlaced=interlaced, crop=(left, top))


def h264_length_size(extradata: bytes) -> int:
    """Bytes of a NAL unit's length prefix, from an avcC record; 0 for Annex B (ISO/IEC 14496-15 section 5.3.3.1)."""
    return (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0


def _avcc_units(extradata: bytes) -> list[bytes]:
    units, at = [], 6
    for _ in range(extradata[5] & 31):
        length = int.from_bytes(extradata[at : at + 2], "big")
        units.append(extradata[at + 2 : at + 2 + length])
        at += 2 + length
    return units


def h264_sequence(extradata: bytes, packet: bytes) -> Sequence | None:
    """The sequence parameter sets of the extradata and a packet, taken together; None if there is none."""
    length_size = h264_length_size(extradata)
    units = _avcc_units(extradata) if length_size else split_units(extradata)
    units += nal_units(packet, length_size, count=_LONGEST_SPS)
    found = [_h264_sps(unit) for unit in units if unit and unit[0] & 31 == 7]
    return reduce(Sequence.joined, found) if found else None


def h264_starts(packet: bytes, length_size: int) -> bool:
    """Whether nothing after this I-picture refers to what came before it: an IDR picture, or a recovery point at once.

    Demuxers also flag other I-pictures as keyframes, behind which x264 lets P-pictures refer to earlier ones.
    """
    for unit in nal_units(packet, length_size, count=_LONGEST_SEI):
        kind = unit[0] & 31 if unit else 0
        if kind == 5:
            return True
        if kind == 6 and _recovers_at_once(unescape(unit[1:])):
            return True
        if kind == 1:
            return False
    return False


def _recovers_at_once(messages: bytes) -> bool:
    """Whether a recovery point with recovery_frame_cnt 0 is among SEI messages (H.264 sections 7.3.2.3.1 and D.1.8)."""
    at = 0
    while at + 2 < len(messages):
        header = [0, 0]  # type and size, in steps of 255
        for field in range(2):
            while at < len(messages) and messages[at] == 255:
                header[field] += 255
                at += 1
            header[field] += messages[at] if at < len(messages) else 0
            at += 1
        if header[0] == _RECOVERY_POINT and at < len(messages):
            return messages[at] >> 7 == 1
        at += header[1]
    return False


def h264_picture(packet: bytes, length_size: int) -> str | None:
    """Type of the one picture in a packet: I, P, B, or in small letters a P- or B-picture that nothing refers to.

    None where the slices differ in type, so that only the decoder can tell.
    """
    types = set()
    reference = 0
    for unit in nal_units(packet, length_size, count=16):
        kind = unit[0] & 31 if unit else 0
        if kind not in (1, 2, 5):
            continue
        reference |= unit[0] >> 5 & 3
        bits = Bits(unescape(unit[1:]))
        bits.exp_golomb()
        types.add(_H264_SLICE_TYPES[bits.exp_golomb() % 5])
    if len(types) != 1:
        return None
    kind_of_picture = types.pop()
    return kind_of_picture if reference or kind_of_picture == "I" else kind_of_picture.lower()


def mpeg4_sequence(extradata: bytes, packet: bytes) -> Sequence | None:
    """The video object layer, ISO/IEC 14496-2 section 6.2.3; None if there is none or its shape is not rectangular."""
    before_picture, _, _ = packet.partition(_MPEG4_VOP)  # nowhere else is a layer; the rest need not be searched
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
    if bits.take(1):
        bits.take(3)
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
    return Sequence(interlaced=interlaced, global_motion=bool(sprite), time_bits=time_bits)


def mpeg4_picture(packet: bytes, time_bits: int) -> str | None:
    """Type of the one picture in a packet: I, P, S, or b (nothing refers to a B-VOP of MPEG-4).

    None where there are several ("packed" XviD), none, or one that is not coded.
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


def mpeg12_sequence(packet: bytes) -> Sequence | None:
    """MPEG-1 and MPEG-2: progressive unless a sequence extension says otherwise (ISO/IEC 13818-2 section 6.2.2.3)."""
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
    """Type of the one picture in a packet: I, P, or b; None where there is not just one (ISO/IEC 13818-2 section 6.2.3)."""
    pictures = [head for head in heads(packet, 3) if head[:1] == b"\x00"]
    if len(pictures) != 1:
        return None
    bits = Bits(pictures[0][1:])
    bits.take(10)
    kind = bits.take(3)
    return {1: "I", 2: "P", 3: "b"}.get(kind)


def flv_picture(packet: bytes) -> str | None:
    """Type of the picture in a packet of Sorenson's H.263: I, P, or p for a P-picture that nothing refers to ("disposable").

    None where the start code is not there (Adobe, SWF file format specification, H263VIDEOPACKET).
    """
    bits = Bits(packet[:12])
    if bits.take(17) != 1:
        return None
    bits.take(5 + 8)
    bits.take({0: 16, 1: 32}.get(bits.take(3), 0))
    return {0: "I", 1: "P", 2: "p"}.get(bits.take(2))
