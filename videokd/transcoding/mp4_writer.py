"""Writes an MP4 in the training form: how it is encoded, and the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from videokd.bitstream.orientation import Orientation, turned
from videokd.codec.opening import reason
from videokd.errors import ConfigError, DecodeError

Codec = Literal["mpeg4", "h264"]
Tune = Literal["none", "fastdecode"]

#: No encoder here takes more pixels on one side (MPEG-4's sizes have 13 bits).
LONGEST_SIDE = 8190
_QUALITY = {"mpeg4": (1, 3, 31), "h264": (0, 18, 51)}  # lowest number (best picture), default, highest number
_MAX_CLOCK = 65535  # MPEG-4's vop_time_increment_resolution has 16 bits
_FALLBACK_RATE = Fraction(25)


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded for training.

    Args:
        codec: "mpeg4" (MPEG-4 part 2, as CoViAR uses) or "h264" (x264, about half the size, slower to decode).
        gop: pictures from one I-frame to the next.
        quality: the quantiser of mpeg4 (1 to 31; CoViAR's `-q:v 1` gives the largest files), or the CRF of h264 (0 to 51);
            lower is better. None: 3 for mpeg4, 18 for h264.
        short_side: pixels of the shorter side, even; the other side keeps the shape, rounded down to even (4:3 gives 340×256).
        frame_rate: pictures a second that the file states; every picture is kept, so motion becomes faster or slower.
            None: the rate of the source.
        resample: pictures a second that the file has: pictures are dropped or repeated by time. None: every picture is kept.
        tune: of h264: "fastdecode" writes it without CABAC and deblocking, with x264's preset veryfast, which halves the time to
            decode and to encode, for slightly larger files; "none" with both, preset medium, as every version before could.

    Raises:
        ConfigError: a value is out of its range.

    >>> Encoding(codec="h264").resolved_quality
    18
    """

    codec: Codec = "mpeg4"
    gop: int = 12
    quality: int | None = None
    short_side: int = 256
    frame_rate: float | None = None
    resample: float | None = None
    tune: Tune = "none"

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise ConfigError(f"codec {self.codec!r} (accepted: {', '.join(get_args(Codec))}). Choose one of these.")
        tunes = get_args(Tune) if self.codec == "h264" else ("none",)
        if self.tune not in tunes:
            raise ConfigError(
                f"tune {self.tune!r} (accepted for {self.codec}: {', '.join(tunes)}). Choose one of these."
            )
        best, _, worst = _QUALITY[self.codec]
        if self.quality is not None and not best <= self.quality <= worst:
            raise ConfigError(
                f"quality {self.quality} (accepted for {self.codec}: {best} to {worst}). Choose a number in that range."
            )
        if not 2 <= self.gop <= 600:
            raise ConfigError(f"gop {self.gop} (accepted: 2 to 600 pictures). CoViAR uses 12.")
        if not 16 <= self.short_side <= 4096 or self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} (accepted: even, 16 to 4096 pixels). CoViAR uses 256.")
        for name, rate in (("frame_rate", self.frame_rate), ("resample", self.resample)):
            if rate is not None and not 0.1 <= rate <= 1000:
                raise ConfigError(f"{name} {rate} (accepted: 0.1 to 1000 a second, or none to keep the source's).")
        if self.frame_rate is not None and self.resample is not None:
            raise ConfigError(
                f"frame_rate {self.frame_rate} and resample {self.resample} exclude each other (accepted: one of them). resample "
                "keeps the speed of motion; frame_rate keeps every picture."
            )

    @property
    def resolved_quality(self) -> int:
        """The quantiser or CRF in use: `quality`, or the codec's default."""
        return _QUALITY[self.codec][1] if self.quality is None else self.quality


def codec_options(encoding: Encoding) -> dict[str, str]:
    """The options of FFmpeg's encoder: GOPs of one length without B-frames, and the same bytes at every run."""
    gop, quality = str(encoding.gop), str(encoding.resolved_quality)
    if encoding.codec == "h264":
        # mbtree's look-ahead sometimes gave different bytes for the same small pictures; with short GOPs it saves nothing.
        fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:ref=1:weightp=0:mbtree=0"
        fast = encoding.tune == "fastdecode"
        return {
            "flags": "+bitexact",
            "preset": "veryfast" if fast else "medium",
            "crf": quality,
            "forced-idr": "1",
            "a53cc": "0",
            "x264-params": fixed + (":cabac=0:no-deblock=1" if fast else ""),
        }
    # `-q:v` of the ffmpeg program sets the quantiser of each frame, which PyAV cannot; equal bounds have the same effect.
    quantiser = {"qmin": quality, "qmax": quality, "i_qfactor": "1"}
    return {"flags": "+bitexact", "g": gop, "bf": "0", "sc_threshold": "1000000000", **quantiser}


def clock(rate: float | Fraction | None) -> Fraction:
    """A frame rate that every container and codec can state; 25 where the source states none, or an impossible one."""
    if rate is None or not 0.01 <= rate <= 1000:
        return _FALLBACK_RATE
    near = Fraction(rate).limit_denominator(1001)
    return near if near.numerator <= _MAX_CLOCK else Fraction(round(near))


UPRIGHT = Orientation()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """FFmpeg's errors as the OSError that `written_whole` reports: only some of them are one."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise OSError(error.errno, reason(error)) from error


class Writer:
    """Writes an MP4 with one video track; it is opened at the first picture, whose size it takes.

    Use it inside `videokd.files.written_whole`, which turns the OSError of a full disk into a DataError with the file's name.

    Args:
        path: where to write.
        rate: pictures a second of the source; None: not known. `encoding` may set another.
        encoding: how pictures are encoded.
    """

    def __init__(self, path: Path, *, rate: Fraction | None, encoding: Encoding) -> None:
        self._path, self._encoding = path, encoding
        self._rate = clock(encoding.resample or encoding.frame_rate or rate)
        self._container: Any = None
        self._reformatter = VideoReformatter()
        self.num_frames = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:  # an error came before `finish`: closing may fail for the same reason
            with contextlib.suppress(av.FFmpegError, OSError):
                self._container.close()

    def write(self, frame: VideoFrame, width: int, height: int, *, orientation: Orientation = UPRIGHT) -> None:
        """Scales a picture, turns it as it is shown, and encodes it.

        Args:
            frame: decoded.
            width: of the file's pictures as shown, in pixels.
            height: of the file's pictures as shown, in pixels.
            orientation: how the frame is shown.

        Raises:
            DecodeError: the picture cannot be converted, or the encoder refuses it.
            OSError: the file cannot be written.
        """
        sides = (height, width) if orientation.transposed else (width, height)
        scaled = self._scaled(frame, *sides)
        picture = turned(scaled, orientation)
        picture.pts = self.num_frames
        picture.time_base = 1 / self._rate
        # A decoded picture still has its old type, which the encoders would take as a request.
        picture.pict_type = PictureType.I if self.num_frames % self._encoding.gop == 0 else PictureType.NONE
        if self._container is None:
            self._open(picture.width, picture.height)
        self._mux(self._encoded(picture))
        self.num_frames += 1

    def finish(self) -> int:
        """Flushes the encoder, writes the file's index and closes it.

        Returns:
            Number of pictures written.

        Raises:
            OSError: the file cannot be written.
        """
        self._mux(self._encoded(None))
        container, self._container = self._container, None
        with _writing():
            container.close()
        return self.num_frames

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> VideoFrame:
        """The picture at another size, in the encoder's colours; what swscale refuses (YCgCo) is no failure to write."""
        try:
            return self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,  # what readers take an untagged file for
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(
                f"pictures in {frame.format.name} cannot be converted to yuv420p: {reason(error)}. Convert the file's colours, or omit it."
            ) from error

    def _encoded(self, picture: VideoFrame | None) -> list[Any]:
        """The packets of a picture; an encoder refuses one mainly because of its size."""
        try:
            packets: list[Any] = self._stream.encode(picture)
        except (av.FFmpegError, ValueError) as error:
            context = self._stream.codec_context
            raise DecodeError(
                f"pictures of {context.width}×{context.height} pixels cannot be encoded as {self._encoding.codec} "
                f"({reason(error)}). Omit the file."
            ) from error
        return packets

    def _mux(self, packets: list[Any]) -> None:
        with _writing():
            self._container.mux(packets)

    def _open(self, width: int, height: int) -> None:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with _writing():
            self._container = av.open(str(self._path), "w", format="mp4", options=options)
        self._stream = self._container.add_stream(
            {"mpeg4": "mpeg4", "h264": "libx264"}[self._encoding.codec], rate=self._rate
        )
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / self._rate
        context.thread_count = 1
        context.options = codec_options(self._encoding)
