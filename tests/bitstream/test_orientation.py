"""The eight orientations that a header can ask for, against FFmpeg's own output."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from videokd.bitstream.orientation import Orientation, orientation_of
from videokd.codec.file_info import read_file_info
from videokd.errors import DecodeError
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode, transcode

SIGNS = (1, -1)
STRAIGHT = [(x, 0, 0, y) for x in SIGNS for y in SIGNS]
TRANSPOSED = [(0, y, x, 0) for x in SIGNS for y in SIGNS]


def write_with_matrix(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """A clip of coloured tiles, 64×48, with a display matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    tiles = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).repeat(16, axis=0).repeat(16, axis=1)
    encode([tiles.astype(np.uint8)] * 3, path, frame_rate=25, encoding=Encoding(quality=1))
    data = path.read_bytes()

    def packed(a: float, b: float, c: float, d: float) -> bytes:
        values = (*(round(65536 * v) for v in (a, b)), 0, *(round(65536 * v) for v in (c, d)), 0, 0, 0, 1 << 30)
        return b"".join(value.to_bytes(4, "big", signed=True) for value in values)

    at = data.index(packed(1, 0, 0, 1), data.index(b"tkhd"))
    path.write_bytes(data[:at] + packed(*matrix) + data[at + 36 :])
    return path


def first_picture(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
@pytest.mark.parametrize("matrix", [*STRAIGHT, *TRANSPOSED, (0, 2, -2, 0), (0.5, 0, 0, -0.5), (0, 0, 0, 0)])
def test_pictures_are_laid_as_ffmpeg_lays_them(matrix: tuple[float, float, float, float], tmp_path: Path) -> None:
    source = write_with_matrix(tmp_path / "in.mp4", matrix)
    transcode(source, tmp_path / "out.mp4", Encoding(short_side=48, quality=1))
    picture = first_picture(tmp_path / "out.mp4")
    command = ["ffmpeg", "-v", "error", "-i", str(source), "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert len(done.stdout) == picture.size
    expected = np.frombuffer(done.stdout, np.uint8).reshape(picture.shape)
    assert np.abs(picture.astype(int) - expected).mean() < 6
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert orientation_of(next(container.decode(video=0))).is_upright


@pytest.mark.parametrize("matrix", [*STRAIGHT, *TRANSPOSED])
def test_turn_and_mirror_describe_the_same(matrix: tuple[float, float, float, float], tmp_path: Path) -> None:
    source = write_with_matrix(tmp_path / "in.mp4", matrix)
    with av.open(str(source)) as container:
        orientation = orientation_of(next(container.decode(video=0)))
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mirrored = plane[:, ::-1] if orientation.is_mirrored else plane
    assert np.array_equal(np.rot90(mirrored, orientation.quarter_turns), orientation.apply(plane))
    info = read_file_info(source)
    assert (info.rotation % 360, info.mirrored) == (90 * orientation.quarter_turns, orientation.is_mirrored)
    a, b, c, d = matrix
    assert orientation.is_mirrored == (a * d - b * c < 0)
    assert orientation.is_upright == (matrix == (1, 0, 0, 1))


@pytest.mark.parametrize("degrees", [45, 30, 268])
def test_an_angle_that_is_no_quarter_turn_is_refused(degrees: int, tmp_path: Path) -> None:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    source = write_with_matrix(tmp_path / "in.mp4", (cosine, sine, -sine, cosine))
    with pytest.raises(DecodeError, match=r"in\.mp4: its header turns pictures by -?\d+° \(accepted: quarter turns"):
        transcode(source, tmp_path / "out.mp4", Encoding(short_side=48))
    assert not (tmp_path / "out.mp4").exists()


def test_every_orientation_is_another() -> None:
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    choices = (False, True)
    laid = {Orientation(t, x, y).apply(plane).tobytes() for t in choices for x in choices for y in choices}
    assert len(laid) == 8
