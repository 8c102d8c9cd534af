"""Writes an MP4 in the training form, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from videokd.codec.encoding import Encoding, clock, codec_options
from videokd.codec.opening import reason
from videokd.codec.orientation import Orientation, turned
from videokd.errors import DataError, DecodeError

TEMPORARY_PREFIX = ".videokd-"
TEMPORARY_SUFFIX = ".part"
UPRIGHT = Orientation()


@contextlib.contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder that takes the target's name on success and is removed on any failure."""
    # The name is short, since the target's own may be as long as the file system allows.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(target, error) from error
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise unwritable(target, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def unwritable(target: Path, error: BaseException) -> DataError:
    """The error of a target that cannot be written."""
    return DataError(
        f"{target} could not be written ({reason(error)}). Check free space and permissions, then run again."
    )


class Writer:
    """An MP4 of one video track; opened at the first picture, whose size it takes."""

    def __init__(self, path: Path, *, shown_as: Path, rate: Fraction | None, encoding: Encoding) -> None:
        self._path, self._shown_as, self._encoding = path, shown_as, encoding
        self._rate = clock(encoding.resample or encoding.frame_rate or rate)
        self._container: Any = None
        self._reformatter = VideoReformatter()
        self.num_frames = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:  # something failed before `finish`: closing may fail on that once more
            with contextlib.suppress(av.FFmpegError, OSError):
                self._container.close()

    def write(self, frame: VideoFrame, width: int, height: int, *, orientation: Orientation = UPRIGHT) -> None:
        """Scale the picture, lay it as it is shown, encode it.

        Args:
            frame: decoded.
            width: of the file's pictures, as shown.
            height: of the file's pictures, as shown.
            orientation: how the frame is shown.

        Raises:
            DecodeError: the encoder refuses the picture.
            DataError: the file cannot be written.
        """
        scaled = self._reformatter.reformat(
            frame,
            width=height if orientation.transposed else width,
            height=width if orientation.transposed else height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,  # what readers take an untagged file for
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        picture = turned(scaled, orientation)
        picture.pts = self.num_frames
        picture.time_base = 1 / self._rate
        # A decoded picture carries its old type, which the encoders would take as an order.
        picture.pict_type = PictureType.I if self.num_frames % self._encoding.gop == 0 else PictureType.NONE
        if self._container is None:
            self._open(picture.width, picture.height)
        self._mux(self._encoded(picture))
        self.num_frames += 1

    def finish(self) -> int:
        """Flush the encoder, write the index, close; the number of pictures.

        Raises:
            DataError: the file cannot be written.
        """
        self._mux(self._encoded(None))
        container, self._container = self._container, None
        try:
            container.close()
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self._shown_as, error) from error
        return self.num_frames

    def _encoded(self, picture: VideoFrame | None) -> list[Any]:
        """What an encoder refuses is the picture's fault: its size, above all."""
        try:
            packets: list[Any] = self._stream.encode(picture)
        except (av.FFmpegError, ValueError) as error:
            context = self._stream.codec_context
            raise DecodeError(
                f"pictures of {context.width}×{context.height} pixels cannot be encoded as {self._encoding.codec} "
                f"({reason(error)}). Leave the file out."
            ) from error
        return packets

    def _mux(self, packets: list[Any]) -> None:
        try:
            self._container.mux(packets)
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self._shown_as, error) from error

    def _open(self, width: int, height: int) -> None:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        try:
            self._container = av.open(str(self._path), "w", format="mp4", options=options)
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self._shown_as, error) from error
        self._stream = self._container.add_stream(
            {"mpeg4": "mpeg4", "h264": "libx264"}[self._encoding.codec], rate=self._rate
        )
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / self._rate
        context.thread_count = 1
        context.options = codec_options(self._encoding)
