"""Any video into the training form: short GOPs of fixed length, I- and P-frames alone, one small size, a real MP4."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from videokd.codec.opening import open_container
from videokd.errors import ConfigError, DataError, DecodeError

Codec = Literal["mpeg4", "h264"]

TEMPORARY_PREFIX = ".videokd-"
TEMPORARY_SUFFIX = ".part"

_QUALITY = {"mpeg4": (1, 3, 31), "h264": (0, 18, 51)}  # lowest number (best picture), default, highest number
_TYPES = {1: "I", 2: "P", 3: "B", 4: "S", 5: "I", 6: "P", 7: "B"}  # AVPictureType; SI, SP and BI among them
_MAX_CLOCK = 65535  # MPEG-4's vop_time_increment_resolution has 16 bits
_FALLBACK_RATE = Fraction(25)


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded for training.

    Args:
        codec: "mpeg4" (MPEG-4 part 2, as CoViAR uses) or "h264" (x264, about half the size, slower to decode).
        gop: pictures from one I-frame to the next.
        quality: the quantiser of mpeg4 (1 to 31; CoViAR's `-q:v 1` is the largest file), or the CRF of h264 (0 to 51);
            small is good. None: 3 for mpeg4, 18 for h264.
        short_side: pixels of the shorter side, even; the other follows, rounded down to even (4:3 gives 340×256).
        frame_rate: pictures a second that the file states; every picture is kept. None: the source's own.

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

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise ConfigError(f"codec {self.codec!r} (accepted: {', '.join(get_args(Codec))}). Choose one of these.")
        best, _, worst = _QUALITY[self.codec]
        if self.quality is not None and not best <= self.quality <= worst:
            raise ConfigError(
                f"quality {self.quality} (accepted for {self.codec}: {best} to {worst}). Choose a number in that range."
            )
        if not 2 <= self.gop <= 600:
            raise ConfigError(f"gop {self.gop} (accepted: 2 to 600 pictures). CoViAR uses 12.")
        if not 16 <= self.short_side <= 4096 or self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} (accepted: even, 16 to 4096 pixels). CoViAR uses 256.")
        if self.frame_rate is not None and not 0.1 <= self.frame_rate <= 1000:
            raise ConfigError(f"frame_rate {self.frame_rate} (accepted: 0.1 to 1000 a second, or none to keep it).")

    @property
    def resolved_quality(self) -> int:
        """The quantiser or CRF in use: `quality`, or the codec's default."""
        return _QUALITY[self.codec][1] if self.quality is None else self.quality


@dataclass(frozen=True)
class SourceForm:
    """How a video was encoded before it was transcoded: what a network could learn in place of the action.

    Args:
        codec: FFmpeg's name of the decoder.
        frame_rate: pictures a second; 0 where the file states none.
        types: the type of each picture in display order: I, P, B, S (global motion), or - where the decoder names none.
    """

    codec: str
    frame_rate: float
    types: str = field(repr=False)

    @property
    def num_frames(self) -> int:
        """Number of pictures."""
        return len(self.types)


def transcode(source: Path | str, target: Path | str, encoding: Encoding | None = None) -> SourceForm:
    """Write a video once more, in the training form; the same input gives the same bytes.

    Every picture is kept, in display order; sound is dropped; rotation and pixel aspect are applied. The target appears
    under its name only when it is whole.

    Args:
        source: any file that FFmpeg reads.
        target: the MP4 to write; its folder is made where it is missing.
        encoding: how; None: the defaults.

    Returns:
        How the source was encoded; as many pictures as it had were written.

    Raises:
        DecodeError: the source is missing, no video, without pictures, damaged or cut off.
        DataError: the target cannot be written, or is the source.
    """
    encoding = encoding or Encoding()
    source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    container, stream = open_container(source)
    with container:
        if target.exists() and target.samefile(source):
            raise DataError(f"{target}: source and target are the same file. Give the target another name or folder.")
        return _written(source, container, stream, target, encoding)


def _written(source: Path, container: Any, stream: VideoStream, target: Path, encoding: Encoding) -> SourceForm:
    """Writes the pictures of an open file; how they were encoded."""
    with _aside(target) as temporary:
        rate = stream.average_rate or stream.guessed_rate
        types: list[str] = []
        with _Writer(temporary, shown_as=target, rate=rate, encoding=encoding) as writer:
            for frame in _pictures(container, stream, source):
                types.append(_TYPES.get(int(frame.pict_type), "-"))
                width, height = _size(frame, stream.sample_aspect_ratio, encoding.short_side)
                writer.write(frame, width, height, quarter_turns=round(frame.rotation / 90) % 4)
            if not writer.num_frames:
                raise DecodeError(f"{source}: no picture could be decoded. The file is damaged: fetch it again.")
            writer.finish()
            return SourceForm(stream.codec_context.name, float(rate or 0), "".join(types))


def encode(
    frames: Iterable[npt.NDArray[np.uint8]], target: Path | str, *, frame_rate: float, encoding: Encoding | None = None
) -> int:
    """Write pictures as a video in the training form, at their own size (`encoding.short_side` is not used).

    Args:
        frames: uint8 [H, W, 3] each, RGB, all of one even size.
        target: the MP4 to write; its folder is made where it is missing.
        frame_rate: pictures a second; `encoding.frame_rate`, where set, takes its place.
        encoding: how; None: the defaults.

    Returns:
        Number of pictures written.

    Raises:
        ValueError: a picture's shape or dtype is another, or there is none.
        DataError: the target cannot be written.
    """
    target = Path(os.path.abspath(target))
    encoding = encoding or Encoding()
    with _aside(target) as temporary:
        rate = Fraction(frame_rate)
        with _Writer(temporary, shown_as=target, rate=rate, encoding=encoding) as writer:
            shape: tuple[int, ...] | None = None
            for frame in frames:
                shape = shape or frame.shape
                if (
                    frame.shape != shape
                    or frame.dtype != np.uint8
                    or len(shape) != 3
                    or shape[2] != 3
                    or any(np.mod(shape[:2], 2))
                ):
                    raise ValueError(
                        f"frame {writer.num_frames} is {frame.dtype}{list(frame.shape)} (accepted: uint8 [H, W, 3], "
                        "H and W even, as the first frame's)"
                    )
                picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                writer.write(picture, shape[1], shape[0])
            if not writer.num_frames:
                raise ValueError("no frames (accepted: at least one)")
            return writer.finish()


def _pictures(container: Any, stream: VideoStream, source: Path) -> Iterator[VideoFrame]:
    """Every picture in display order; damage that FFmpeg notices raises DecodeError, naming path and picture."""
    count = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _damaged(source, count, "a packet is incomplete")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise _damaged(source, count, "the picture is incomplete")
                yield frame
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise _damaged(source, count, _cause(error)) from error


def _damaged(source: Path, count: int, cause: str) -> DecodeError:
    return DecodeError(
        f"{source}: decoding stopped after {count} pictures ({cause}). Damaged or cut off: fetch it again."
    )


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _size(frame: VideoFrame, pixel_aspect: Fraction | None, short_side: int) -> tuple[int, int]:
    """Width and height of square pixels to scale a picture to."""
    sides = (frame.width * float(pixel_aspect or 1), float(frame.height))
    scale = short_side / min(sides)
    # Rounded down to even, which 4:2:0 needs: 341.3 becomes CoViAR's 340. The short side itself must not lose a pixel.
    width, height = (max(short_side, int(side * scale) // 2 * 2) for side in sides)
    return width, height


def _turned(frame: VideoFrame, quarter_turns: int) -> VideoFrame:
    """A yuv420p picture of even size, turned to the left."""
    height, width = frame.height, frame.width
    planes = np.split(frame.to_ndarray().reshape(-1), [height * width, height * width * 5 // 4])
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    turned = [np.rot90(plane.reshape(shape), quarter_turns) for plane, shape in zip(planes, shapes, strict=True)]
    packed = np.concatenate([plane.reshape(-1) for plane in turned]).reshape(-1, turned[0].shape[1])
    return VideoFrame.from_ndarray(np.ascontiguousarray(packed), format="yuv420p")


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder that takes the target's name on success and is removed on any failure."""
    # The name is short, since the target's own may be as long as the file system allows.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(target, error) from error
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _unwritable(target, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _unwritable(target: Path, error: BaseException) -> DataError:
    return DataError(
        f"{target} could not be written ({_cause(error)}). Check free space and permissions, then run again."
    )


class _Writer:
    """An MP4 of one video track; opened at the first picture, whose size it takes."""

    def __init__(self, path: Path, *, shown_as: Path, rate: Fraction | None, encoding: Encoding) -> None:
        self._path, self._shown_as, self._encoding = path, shown_as, encoding
        self._rate = _clock(encoding.frame_rate or rate)
        self._container: Any = None
        self._reformatter = VideoReformatter()
        self.num_frames = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:  # something failed before `finish`: closing may fail on that once more
            with contextlib.suppress(av.FFmpegError, OSError):
                self._container.close()

    def write(self, frame: VideoFrame, width: int, height: int, *, quarter_turns: int = 0) -> None:
        """Scale the picture to width × height, turn it to the left, encode it.

        Raises:
            DataError: the file cannot be written.
        """
        picture = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,  # what readers take an untagged file for
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        if quarter_turns:
            picture = _turned(picture, quarter_turns)
        picture.pts = self.num_frames
        picture.time_base = 1 / self._rate
        # A decoded picture carries its old type, which the encoders would take as an order.
        picture.pict_type = PictureType.I if self.num_frames % self._encoding.gop == 0 else PictureType.NONE
        try:
            if self._container is None:
                self._open(picture.width, picture.height)
            self._container.mux(self._stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
            raise _unwritable(self._shown_as, error) from error
        self.num_frames += 1

    def finish(self) -> int:
        """Flush the encoder, write the index, close; the number of pictures.

        Raises:
            DataError: the file cannot be written.
        """
        container, self._container = self._container, None
        try:
            with container:
                container.mux(self._stream.encode(None))
        except (av.FFmpegError, OSError) as error:
            raise _unwritable(self._shown_as, error) from error
        return self.num_frames

    def _open(self, width: int, height: int) -> None:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        self._container = av.open(str(self._path), "w", format="mp4", options=options)
        self._stream = self._container.add_stream(
            {"mpeg4": "mpeg4", "h264": "libx264"}[self._encoding.codec], rate=self._rate
        )
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / self._rate
        context.thread_count = 1
        context.options = _codec_options(self._encoding)


def _codec_options(encoding: Encoding) -> dict[str, str]:
    gop, quality = str(encoding.gop), str(encoding.resolved_quality)
    if encoding.codec == "h264":
        # mbtree's look-ahead gave other bytes now and then for the same small pictures; with short GOPs it saves nothing.
        fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:ref=1:weightp=0:mbtree=0"
        return {
            "flags": "+bitexact",
            "preset": "medium",
            "crf": quality,
            "forced-idr": "1",
            "a53cc": "0",
            "x264-params": fixed,
        }
    # `-q:v` of the ffmpeg program sets each frame's own quantiser, out of PyAV's reach; bounds that meet do the same.
    quantiser = {"qmin": quality, "qmax": quality, "i_qfactor": "1"}
    return {"flags": "+bitexact", "g": gop, "bf": "0", "sc_threshold": "1000000000", **quantiser}


def _clock(rate: float | Fraction | None) -> Fraction:
    """A frame rate that every container and codec can state; 25 where the source states none that can be true."""
    if rate is None or not 0.01 <= rate <= 1000:
        return _FALLBACK_RATE
    near = Fraction(rate).limit_denominator(1001)
    return near if near.numerator <= _MAX_CLOCK else Fraction(round(near))
