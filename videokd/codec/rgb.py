"""Fully decoded RGB frames: for RGB teachers, and to compare with.

By decord where it has a wheel (x86-64 Linux and Windows), by PyAV elsewhere, and for AVI, where decord's last frame is wrong in
"packed" files with B-frames.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from videokd.codec.container import Colours
from videokd.codec.opening import check_path, open_container
from videokd.errors import DecodeError

try:
    import decord
except ImportError:  # no wheel for this platform
    decord = None

Frames = npt.NDArray[np.uint8]


def read_rgb(path: str | os.PathLike[str], frame_numbers: Sequence[int]) -> Frames:
    """Frames of a video by their numbers.

    Args:
        path: the video.
        frame_numbers: T numbers in display order, from 0, as in `Gop.frame_numbers`; in any order, also repeated.

    Returns:
        uint8 [T, H, W, 3], RGB.

    Raises:
        DecodeError: the file cannot be read, or has no frame of such a number.
    """
    path = check_path(path)
    if not len(frame_numbers) or min(frame_numbers) < 0:
        raise DecodeError(
            f"{path}: frames {list(frame_numbers)} (accepted: one or more numbers from 0 on). Correct them."
        )
    if decord is None or path.suffix.lower() == ".avi" or not str(path).isprintable():
        return read_by_pyav(path, frame_numbers)
    return read_by_decord(path, frame_numbers)


def read_by_decord(path: Path, frame_numbers: Sequence[int]) -> Frames:
    """As `read_rgb`, by decord, which would open anything that FFmpeg can: only after the rules of opening.py hold."""
    container, _ = open_container(path)
    container.close()
    try:
        # a reader a call: decord's memory grows with the number of reads
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1)
        _check_numbers(path, frame_numbers, len(reader))
        frames: Frames = reader.get_batch(list(frame_numbers)).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, UnicodeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise DecodeError(
            f"{path} cannot be decoded by decord: {reason}. Check that it plays, or copy it again."
        ) from error
    return frames


def read_by_pyav(path: Path, frame_numbers: Sequence[int]) -> Frames:
    """As `read_rgb`, by PyAV, which decodes from the first frame on."""
    wanted = set(frame_numbers)
    found: dict[int, Frames] = {}
    container, stream = open_container(path)
    colours = Colours()
    count = 0
    with container:
        try:
            for number, frame in enumerate(container.decode(stream)):
                count = number + 1
                if number in wanted:
                    rows = colours.rows(frame)[:, : 3 * frame.width]
                    found[number] = rows.copy().reshape(frame.height, frame.width, 3)
                if len(found) == len(wanted):
                    break
        except (ValueError, OSError, DecodeError) as error:  # FFmpeg's errors are one of the first two
            raise DecodeError(f"{path}: frame {count} cannot be decoded: {error}. Copy the file again.") from error
    if len(found) < len(wanted):
        _check_numbers(path, frame_numbers, count)
    return np.stack([found[number] for number in frame_numbers])


def _check_numbers(path: Path, frame_numbers: Sequence[int], count: int) -> None:
    if max(frame_numbers) >= count:
        raise DecodeError(
            f"{path} has no frame {max(frame_numbers)} (accepted: 0 to {count - 1}). See `videokd inspect`."
        )
