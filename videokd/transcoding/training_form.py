"""How a file is encoded, and whether it has the training form: that of the clips that the networks were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av

from videokd.bitstream.frame_rate import RateMeter
from videokd.bitstream.orientation import Orientation, orientation_of
from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.container import MOTION_CODECS
from videokd.codec.index import VideoIndex
from videokd.codec.opening import demuxed, open_container, reason
from videokd.errors import ConfigError, DecodeError
from videokd.transcoding.mp4_writer import Encoding

_SAME_RATE = 0.02  # 29.97 and 30 are one rate: a picture more or less in a second and a half
# How much larger or smaller than in training a picture may be: motion is in pixels
_SIMILAR_SIZE = 0.25
_EIGHT_BITS = ("yuv420p", "yuvj420p")
_ENCODED = ("codec", "gop", "quality", "short_side", "resample", "tune")


@dataclass(frozen=True)
class FileForm:
    """How a file is encoded, as its headers, its first picture and its timestamps say.

    Args:
        codec: FFmpeg's name of the decoder.
        width: of the coded pictures, in pixels.
        height: of the coded pictures, in pixels.
        pixel_format: FFmpeg's name, such as yuv420p.
        pixel_aspect: width of a pixel by its height.
        orientation: how the pictures are shown.
        frame_rate: pictures a second, as its timestamps say; 0 if it is not known.
        seconds: from the first picture to the last; 0 if it is not known.
    """

    codec: str
    width: int
    height: int
    pixel_format: str
    pixel_aspect: Fraction
    orientation: Orientation
    frame_rate: float
    seconds: float = 0.0


def form_of(path: Openable | Source) -> FileForm:
    """Reads how a file is encoded; all packets are read, but only the first picture is decoded.

    Args:
        path: of the video, or bytes, or a file object.

    Raises:
        DecodeError: the file cannot be read, its first picture cannot be decoded, or is rotated by an angle that is not a quarter
            turn.
    """
    source = source_of(path)
    container, stream = open_container(source)
    with container:
        try:
            frame, meter = _first_picture_and_rate(container, stream)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(f"{source} cannot be decoded: {reason(error)}. Check that it plays.") from error
        if frame is None:
            raise DecodeError(f"{source} has no picture that can be decoded. Check that it plays.")
        try:
            orientation = orientation_of(frame)
        except DecodeError as error:
            raise DecodeError(f"{source}: {error}") from error
        return FileForm(
            codec=stream.codec_context.name,
            width=frame.width,
            height=frame.height,
            pixel_format=frame.format.name,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
            orientation=orientation,
            frame_rate=meter.rate,
            seconds=meter.seconds,
        )


def _first_picture_and_rate(container: Any, stream: Any) -> tuple[Any, RateMeter]:
    """The first picture, or None; what has seen all packets."""
    frame, meter = None, RateMeter(stream)
    for packet in demuxed(container, stream):
        meter.see(packet)
        if frame is None:
            frame = next(iter(packet.decode()), None)
    return frame, meter


@dataclass(frozen=True)
class TrainingForm:
    """How the clips are encoded that networks were trained on.

    Args:
        encoding: how the clips were transcoded, if they were.
        codecs: which codecs a file may have.
        short_side: pixels that a file's shorter side must have; None: any.
        gop: pictures that each GOP must have, without B-frames; None: any.
        frame_rates: the lowest and the highest rate of the clips, in pictures a second; None if they are not known.
    """

    encoding: Encoding
    codecs: tuple[str, ...]
    short_side: int | None
    gop: int | None
    frame_rates: tuple[float, float] | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> TrainingForm:
        """The training form that the settings of a manifest describe; exported students hold a copy of these.

        Clips that were not transcoded may have any form with motion vectors. If nothing is known, the form is motion vectors and GOPs
        of the default length.

        Args:
            settings: of the manifest; "encoding", "frame_rates" and "keep" are used.

        Raises:
            ConfigError: the settings are damaged.
        """
        try:
            known = dict(settings.get("encoding") or {})
            encoding = Encoding(**{name: known[name] for name in _ENCODED if name in known})
            rates = tuple(map(float, settings.get("frame_rates") or ()))
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"how the clips were encoded is damaged ({error}). Export the students again.") from error
        if encoding.resample is not None:
            rates = (encoding.resample, encoding.resample)
        frame_rates = (rates[0], rates[1]) if len(rates) == 2 else None
        if settings.get("keep"):
            return cls(encoding, MOTION_CODECS, None, None, frame_rates)
        if not known:
            return cls(encoding, MOTION_CODECS, None, encoding.gop, frame_rates)
        return cls(encoding, (encoding.codec,), encoding.short_side, encoding.gop, frame_rates)

    def differences(self, form: FileForm) -> tuple[str, ...]:
        """What differs between a file and the training form, as far as headers tell, in words; empty if nothing does."""
        found = []
        if form.codec not in self.codecs:
            found.append(f"codec {form.codec}")
        if self.short_side is not None and min(form.width, form.height) != self.short_side:
            found.append(f"size {form.width}×{form.height}")
        if self.short_side is not None and form.pixel_format != "yuv420p":
            found.append(f"pixels {form.pixel_format}")
        if form.pixel_aspect != 1:
            found.append(f"pixel aspect {form.pixel_aspect}")
        if not form.orientation.is_upright:
            found.append("orientation")
        if self._nearest_rate(form.frame_rate) is not None:
            found.append(f"{form.frame_rate:g} pictures a second")
        return tuple(found)

    def gop_differences(self, index: VideoIndex) -> tuple[str, ...]:
        """What differs between a file's GOPs and the training form, in words; empty if nothing does."""
        if self.gop is None:
            return () if any(len(anchors) > 1 for anchors in index.anchors) else ("no P-frame",)
        found = []
        lengths = [len(anchors) for anchors in index.anchors]
        if any(length != self.gop for length in lengths[:-1]) or lengths[-1] > self.gop:
            found.append(f"GOPs of {min(lengths)} to {max(lengths)}")
        if "B" in index.types.upper():
            found.append("B-frames")
        if not index.exact:
            found.append("; ".join(index.inexact_because))
        return tuple(found)

    def is_similar(self, form: FileForm) -> bool:
        """Whether a file with cut GOPs (`VideoIndex.cut`) is read almost as in training, as far as headers tell.

        Not where clips were kept as they were. Its codec must export motion vectors, its pictures must have square pixels, be upright, of 8 bits and at most a quarter larger or
        smaller than in training, and its rate must not need resampling.
        """
        side = min(form.width, form.height)
        return (
            self.gop is not None
            and form.codec in MOTION_CODECS
            and form.pixel_format in _EIGHT_BITS
            and form.pixel_aspect == 1
            and form.orientation.is_upright
            and (self.short_side is None or abs(side / self.short_side - 1) <= _SIMILAR_SIZE)
            and (self.encoding.resample is None or self._nearest_rate(form.frame_rate) is None)
        )

    def gop_at(self, frame_rate: float) -> int | None:
        """Pictures of a GOP that lasts as long as in training, at a file's pictures a second (0: not known); None: any length."""
        nearest = self._nearest_rate(frame_rate)
        if self.gop is None or nearest is None:
            return self.gop
        return _gop_at(self.gop, frame_rate, nearest)

    def has_similar_gops(self, index: VideoIndex, frame_rate: float) -> bool:
        """Whether cut GOPs are like those of training: with P-frames, and at least half as long on average.

        Args:
            index: of the file, its GOPs cut.
            frame_rate: of the file, in pictures a second; 0: not known.
        """
        expected = min(self.gop_at(frame_rate) or 1, index.num_frames)
        long_enough = 2 * index.num_frames >= expected * len(index.anchors)
        return long_enough and any(len(anchors) > 1 for anchors in index.anchors)

    def encoding_for(self, frame_rate: float) -> Encoding:
        """How to transcode a file so that its GOPs last as long as in training.

        If the file's rate is higher, pictures are dropped. If it is lower, GOPs are made shorter: repeated pictures would have no
        motion. If the training clips were resampled, the networks know repeated pictures, and the file is resampled too.

        Args:
            frame_rate: of the file, in pictures a second; 0: not known.
        """
        nearest = self._nearest_rate(frame_rate)
        if nearest is None or self.encoding.resample is not None:
            return self.encoding
        if frame_rate > nearest:
            return replace(self.encoding, resample=nearest)
        return replace(self.encoding, gop=_gop_at(self.encoding.gop, frame_rate, nearest))

    def _nearest_rate(self, frame_rate: float) -> float | None:
        """The clips' rate that is nearest to a file's; None if the file has one of their rates, or a rate is not known."""
        if self.frame_rates is None or not frame_rate:
            return None
        lowest, highest = self.frame_rates
        nearest = min(max(frame_rate, lowest), highest)
        return None if abs(frame_rate - nearest) <= _SAME_RATE * nearest else nearest


def _gop_at(gop: int, frame_rate: float, nearest: float) -> int:
    """How many pictures last as long as those of a GOP at the nearest rate of the training clips."""
    return max(round(gop * frame_rate / nearest), 2)
