"""What a file's headers state: container, codec, picture format, other tracks. For `inspect`; not needed to read streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from videokd.bitstream.h264_headers import h264_sequence
from videokd.bitstream.orientation import orientation_of
from videokd.bitstream.source import Openable, Source
from videokd.codec.container import MOTION_CODECS, PictureDecoder
from videokd.codec.index import Limits
from videokd.errors import DecodeError

# ISO/IEC 23091-2 (H.273), tables 4 and 8.3, as FFmpeg numbers them
_MATRICES = {
    0: "RGB",
    1: "BT.709",
    4: "FCC",
    5: "BT.601",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "YCgCo",
    9: "BT.2020",
    10: "BT.2020",
}
_RANGES = {1: "limited", 2: "full"}
_MPEG2_LEVELS = {4: "High", 6: "High 1440", 8: "Main", 10: "Low"}
_MOST_PACKETS = 64


@dataclass(frozen=True)
class FileInfo:
    """What a file's headers and its first picture state.

    Args:
        container: FFmpeg's name of the format, such as "QuickTime / MOV".
        num_bytes: of the file.
        profile: of the codec; None if it is not stated.
        level: of the profile, such as 3.1; None if it is not known.
        references: how many frames a P-frame may refer to; None if the codec exports no motion vectors.
        pixel_format: FFmpeg's name, such as yuv420p.
        bits: of one luma sample.
        matrix: from YCbCr to RGB, such as BT.709; None if it is not stated, and BT.601 is used.
        value_range: limited (16 to 235) or full; None if it is not stated, and limited is used.
        pixel_aspect: (width, height) of a pixel; (1, 1) if it is square or not stated.
        rotation: degrees, counter-clockwise, by which players turn the picture; streams are as coded.
        mirrored: whether players mirror the picture left to right before they turn it.
        other_tracks: such as "audio aac"; empty if there is only the video.
    """

    container: str
    num_bytes: int
    profile: str | None
    level: str | None
    references: int | None
    pixel_format: str
    bits: int
    matrix: str | None
    value_range: str | None
    pixel_aspect: tuple[int, int]
    rotation: int
    mirrored: bool
    other_tracks: tuple[str, ...]


def read_file_info(path: Openable | Source, *, limits: Limits | None = None) -> FileInfo:
    """Reads what a file's headers and its first picture state.

    Args:
        path: of the video, or bytes, or a file object.
        limits: what to refuse; None: the defaults.

    Raises:
        DecodeError: the file cannot be opened, or holds no video.
    """
    decoder = PictureDecoder(path, limits=limits or Limits())
    try:
        packet, frame = _first_packet_and_frame(decoder)
        context, stream = decoder.context, decoder.stream
        # The decoder may know better than the container
        source = frame if frame is not None else context
        aspect = stream.sample_aspect_ratio
        rotation, mirrored = (0, False) if frame is None else _orientation(frame)
        return FileInfo(
            container=decoder.container.format.long_name or decoder.container.format.name,
            num_bytes=decoder.source.size,
            profile=context.profile or None,
            level=_level(context),
            references=_references(context, packet) if context.name in MOTION_CODECS else None,
            pixel_format=source.format.name,
            bits=source.format.components[0].bits,
            matrix=_MATRICES.get(int(source.colorspace)),
            value_range="full" if source.format.name.startswith("yuvj") else _RANGES.get(int(source.color_range)),
            pixel_aspect=(aspect.numerator, aspect.denominator) if aspect else (1, 1),
            rotation=rotation,
            mirrored=mirrored,
            other_tracks=tuple(
                _track_text(other) for other in decoder.container.streams if other.index != stream.index
            ),
        )
    finally:
        decoder.close()


def _orientation(frame: Any) -> tuple[int, bool]:
    """(rotation in degrees, whether it is mirrored before)."""
    try:
        orientation = orientation_of(frame)
    except DecodeError:  # an angle that is not a quarter turn
        return int(frame.rotation), False
    return (90 * orientation.quarter_turns + 180) % 360 - 180, orientation.is_mirrored


def _first_packet_and_frame(decoder: PictureDecoder) -> tuple[bytes, Any]:
    """The first packet, and the first frame that the decoder gives; None if it gives none for the first packets."""
    first = b""
    try:
        for number, packet in enumerate(decoder.packets()):
            first = first or bytes(packet)
            frames = decoder.feed(packet, number)
            if frames:
                return first, frames[0][1]
            if number == _MOST_PACKETS:
                return first, None
        frames = decoder.flush(None)
    except DecodeError:
        frames = []
    return first, frames[0][1] if frames else None


def _level(context: Any) -> str | None:
    """The level as its standard writes it: FFmpeg numbers H.264's in tenths, HEVC's in thirtieths, MPEG-2's as in its table 8-3."""
    level = getattr(context, "level", None)
    if level is None or level <= 0:
        return None
    if context.name == "mpeg2video":
        return _MPEG2_LEVELS.get(level)
    return f"{level / {'h264': 10, 'hevc': 30}.get(context.name, 1):g}"


def _references(context: Any, packet: bytes) -> int | None:
    """How many frames a P-frame may refer to, as the sequence header says; one in every codec here except H.264."""
    if context.name != "h264":
        return 1
    try:
        sequence = h264_sequence(context.extradata or b"", packet)
    except IndexError:
        return None
    return None if sequence is None else sequence.references


def _track_text(stream: Any) -> str:
    """A track's type, codec and language."""
    context = stream.codec_context
    language = stream.metadata.get("language", "und")
    name = f"{stream.type} {context.codec.canonical_name}" if context is not None else stream.type or "data"
    return name if language == "und" else f"{name} ({language})"
