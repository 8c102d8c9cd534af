"""Reads H.264 headers (ITU-T H.264): sequence parameter sets, recovery points, and the types of slices."""

from __future__ import annotations

from functools import reduce

from videokd.bitstream.headers import Bits, Sequence, nal_units, split_units, unescape

_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
# Table 7-6: slice_type modulo 5; SP counts as P and SI as I
_SLICE_TYPES = "PBIPI"
# Bytes that hold a sequence parameter set as far as it is read, scaling lists included
_LONGEST_SPS = 1024
_LONGEST_SEI = 4096
_RECOVERY_POINT = 6
_MOST_NUMBER_BITS = 16


def _skip_scaling_lists(bits: Bits, chroma_format: int) -> None:
    for index in range(8 if chroma_format != 3 else 12):
        if not bits.take(1):
            continue
        last, following = 8, 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.signed_exp_golomb()) % 256
            last = following or last


def _skip_display_order(bits: Bits) -> None:
    order_type = bits.exp_golomb()
    if order_type == 0:
        bits.exp_golomb()
    elif order_type == 1:
        bits.take(1)
        bits.signed_exp_golomb()
        bits.signed_exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.signed_exp_golomb()


def _sequence_parameter_set(unit: bytes) -> Sequence:
    """seq_parameter_set_data, H.264 section 7.3.2.1.1, as far as the frame_crop offsets."""
    bits = Bits(unescape(unit[1:]))
    profile = bits.take(8)
    bits.take(16)
    bits.exp_golomb()
    chroma_format, separate_planes = 1, 0
    if profile in _HIGH_PROFILES:
        chroma_format = bits.exp_golomb()
        if chroma_format == 3:
            separate_planes = bits.take(1)
        bits.exp_golomb()
        bits.exp_golomb()
        bits.take(1)
        if bits.take(1):
            _skip_scaling_lists(bits, chroma_format)
    number_bits = bits.exp_golomb() + 4
    _skip_display_order(bits)
    references = bits.exp_golomb()
    numbers_skip = bits.take(1)
    bits.exp_golomb()
    bits.exp_golomb()
    interlaced = not bits.take(1)
    bits.take(1 + interlaced)
    left = top = 0
    if bits.take(1):
        left = bits.exp_golomb() * (2 if chroma_format in (1, 2) else 1)
        bits.exp_golomb()
        top = bits.exp_golomb() * (2 if chroma_format == 1 else 1) * (1 + interlaced)
    tells = number_bits <= _MOST_NUMBER_BITS and not (separate_planes or numbers_skip)
    return Sequence(
        references=max(references, 1),
        interlaced=interlaced,
        crop=(left, top),
        number_bits=number_bits if tells else 0,
    )


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
    """The sequence parameter sets of an H.264 stream (section 7.3.2.1.1).

    Args:
        extradata: from the container's header: an avcC record, Annex B, or empty.
        packet: the content of a packet.

    Returns:
        All of them joined; None if there are none.

    Raises:
        IndexError: one is damaged.
    """
    length_size = h264_length_size(extradata)
    units = _avcc_units(extradata) if length_size else split_units(extradata)
    units += nal_units(packet, length_size, count=_LONGEST_SPS)
    found = [_sequence_parameter_set(unit) for unit in units if unit and unit[0] & 31 == 7]
    return reduce(Sequence.joined, found) if found else None


def h264_starts(packet: bytes, length_size: int) -> bool:
    """Whether decoding can start at a packet: no later picture refers to an earlier one, except those shown before it.

    That holds for an IDR picture, and for a recovery point with recovery_frame_cnt 0. Demuxers flag other I-pictures as keyframes
    too, but x264 lets P-pictures after those refer to pictures before.

    Args:
        packet: of one picture.
        length_size: bytes of a unit's length prefix; 0: start codes.
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
    """The type of the picture in an H.264 packet (sections 7.3.1 and 7.3.3).

    Args:
        packet: its content.
        length_size: bytes of a unit's length prefix; 0: start codes.

    Returns:
        I, P, B, or p or b if no picture refers to it; None if the slices differ in type, so that only the decoder can tell.

    Raises:
        IndexError: a slice header is damaged.
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
        types.add(_SLICE_TYPES[bits.exp_golomb() % 5])
    if len(types) != 1:
        return None
    kind_of_picture = types.pop()
    return kind_of_picture if reference or kind_of_picture == "I" else kind_of_picture.lower()


class PictureNumbers:
    """Notices from frame_num that pictures are missing to which others refer (H.264 section 7.4.3); transports do not always tell.

    Args:
        extradata: from the container's header; may be empty.
    """

    def __init__(self, extradata: bytes) -> None:
        self._length_size = h264_length_size(extradata)
        try:
            self._sequence = h264_sequence(extradata, b"")
        except IndexError:
            self._sequence = None
        self._last: int | None = None

    def misses(self, packet: bytes, *, keyframe: bool) -> bool:
        """Takes the next packet; whether a picture is missing before it.

        Args:
            packet: its content.
            keyframe: whether it is flagged as one.
        """
        try:
            if keyframe:
                self._sequence = (None if self._length_size else h264_sequence(b"", packet)) or self._sequence
            return self._misses(packet)
        except IndexError:  # damaged headers are noticed elsewhere
            return False

    def _misses(self, packet: bytes) -> bool:
        for unit in nal_units(packet, self._length_size, count=24):
            kind = unit[0] & 31 if unit else 0
            if kind == 5:
                self._last = 0
                return False
            if kind == 1:
                return self._misses_before(unit)
        return False

    def _misses_before(self, slice_unit: bytes) -> bool:
        if self._sequence is None or not self._sequence.number_bits:
            return False
        bits = Bits(unescape(slice_unit[1:]))
        for _ in range(3):
            bits.exp_golomb()
        number, last = bits.take(self._sequence.number_bits), self._last
        if slice_unit[0] >> 5 & 3:
            self._last = number
        return last is not None and number not in (last, (last + 1) % (1 << self._sequence.number_bits))
