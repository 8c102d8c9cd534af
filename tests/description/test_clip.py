"""Descriptions of clips whose motion is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from tests.conftest import moving_texture
from videokd.codec.container import MOTION_CODECS

MakeClip = Callable[..., Path]
MOVING = {
    "mpeg4": ("mpeg4", 0),
    "mpeg4 with B-frames": ("mpeg4", 2),
    "mpeg2": ("mpeg2video", 0),
    "h264": ("libx264", 0),
}
#: (encoder, container)
STILL = (
    *(
        ("mpeg4", "mkv"),
        ("libx264", "mkv"),
        ("mpeg2video", "mkv"),
        ("mpeg1video", "mpg"),
        ("h263p", "avi"),
        ("flv", "flv"),
    ),
    *(("wmv2", "avi"), ("mpeg4 with B-frames", "mkv")),
)


def scene(num_frames: int, *, seed: int = 1, step: tuple[int, int] = (3, 1)) -> list[np.ndarray]:
    """A texture of 160×96 pixels that moves by `step` a frame; up to 128 pixels, then `moving_texture` starts again."""
    assert num_frames * max(map(abs, step)) < 128
    return list(moving_texture(num_frames + 1, 96, 160, seed=seed, step=step)[1:])


@pytest.mark.parametrize("kind", MOVING)
def test_a_texture_that_moves_by_a_known_vector(tmp_path: Path, kind: str) -> None:
    codec, b_frames = MOVING[kind]
    write(tmp_path / "moving.mkv", scene(37), codec, b_frames=b_frames)
    found = videokd.describe(tmp_path / "moving.mkv")
    assert (found.width, found.height, found.frames, found.frame_rate) == (160, 96, 37, pytest.approx(25, rel=0.01))
    assert found.motion_pixels == pytest.approx(10**0.5, rel=0.25)
    assert found.motion == pytest.approx(found.motion_pixels * 25 / 96, rel=0.01)
    assert found.camera_x == pytest.approx(3 * 25 / 96, rel=0.05)
    assert found.camera_y == pytest.approx(1 * 25 / 96, rel=0.1)
    assert found.camera == pytest.approx(10**0.5 * 25 / 96, rel=0.05)
    assert found.still < 0.1
    assert found.shake < 0.1
    assert found.cuts == 0


@pytest.mark.parametrize(("codec", "container"), STILL)
def test_a_clip_that_stands_still(tmp_path: Path, codec: str, container: str) -> None:
    # One picture, repeated: encoders skip its blocks, and FFmpeg exports skipped blocks with a zero vector; so none is intra
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (9, 11, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    name, _, b_frames = codec.partition(" ")
    write(tmp_path / f"still.{container}", [picture] * 20, name, b_frames=2 if b_frames else 0)
    found = videokd.describe(tmp_path / f"still.{container}")
    assert (found.still, found.intra, found.motion, found.motion_p95) == (1, 0, 0, 0)
    assert (found.camera, found.camera_x, found.shake, found.cuts) == (0, 0, 0, 0)


def write(path: Path, pictures: list[np.ndarray], codec: str = "mpeg4", *, b_frames: int = 0, gop: int = 12) -> None:
    with av.open(str(path), "w") as output:
        # With one reference, a vector surely points at the frame before
        stream = output.add_stream(codec, rate=25, options={"refs": "1"} if codec == "libx264" else {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def test_codecs_without_vectors_have_a_row(make_clip: MakeClip) -> None:
    found = videokd.describe(make_clip("libvpx-vp9", container="webm"))
    assert found.codec not in MOTION_CODECS
    assert (found.width, found.frames, found.gops > 0, found.exact) == (128, 30, True, False)
    unknown = ("motion", "motion_p95", "motion_pixels", "motion_pixels_p95", "still", "intra", "camera", "camera_x")
    assert {getattr(found, name) for name in (*unknown, "camera_y", "shake", "cuts", "cut_seconds")} == {None}
    assert all(len(value) == 16 for value in found.hashes)
    assert found.hashes


def test_a_clip_of_i_frames_has_no_motion_but_cuts(tmp_path: Path) -> None:
    write(tmp_path / "i.mkv", [*scene(8), *scene(8, seed=2)], gop=1)
    found = videokd.describe(tmp_path / "i.mkv")
    assert (found.motion, found.still, found.cuts, found.gops) == (None, None, 1, 16)


def test_bytes_and_file_objects_are_described_alike(make_clip: MakeClip) -> None:
    path = make_clip("mpeg4")
    expected = videokd.describe(path)
    assert (expected.path, expected.bytes) == (str(path), path.stat().st_size)
    assert dataclasses.replace(videokd.describe(path.read_bytes()), path=str(path)) == expected
    with path.open("rb") as file:
        assert dataclasses.replace(videokd.describe(file), path=str(path)) == expected


def test_a_bad_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(videokd.DecodeError, match=r"bad\.mp4"):
        videokd.describe(tmp_path / "bad.mp4")


def test_numbers_of_a_real_clip(shared: Path) -> None:
    # the reference: raw vectors of every P-frame, in NumPy
    path = shared / "clips" / "v_Archery_g01_c01.avi"
    with videokd.open(path) as video:
        size = video.width * video.height
        still, covered, lengths, medians = [], [], [], []
        for frame in video.frames():
            if frame.type != "P":
                continue
            v = frame.vectors
            area = v["w"].astype(int) * v["h"]
            x, y = -v["motion_x"] / v["motion_scale"], -v["motion_y"] / v["motion_scale"]
            still.append(area[(x == 0) & (y == 0)].sum() / size)
            covered.append(area.sum() / size)
            lengths.append((np.hypot(x, y) * area).sum() / size)
            medians.append([np.median(np.repeat(each, area // 64)) for each in (x, y)])
    found = videokd.describe(path)
    assert found.still == pytest.approx(np.mean(still), abs=1e-4)
    assert found.intra == pytest.approx(1 - np.mean(covered), abs=1e-4)
    assert found.motion_pixels == pytest.approx(np.sum(lengths) / np.sum(covered), abs=1e-4)
    factor = found.frame_rate / found.height
    assert found.camera == pytest.approx(np.hypot(*np.transpose(medians)).mean() * factor, rel=0.03)
