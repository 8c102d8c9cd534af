"""Against arrays that CoViAR's own data loader gave for one raw MPEG-4 clip of 17 GOPs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import videokd

#: The original leaves these columns of a 340 pixels wide picture uninitialised.
WRITTEN_COLUMNS = 336


@pytest.fixture(scope="module")
def clip(shared: Path) -> Path:
    return shared / "coviar-reference" / "synth.m4v"


@pytest.fixture(scope="module")
def video(clip: Path) -> Iterator[videokd.VideoReader]:
    with videokd.open(clip) as video:
        yield video


def md5(motion: np.ndarray) -> str:
    return hashlib.md5(np.ascontiguousarray(motion, dtype="<i4").tobytes()).hexdigest()


def test_motion_of_every_frame(clip: Path, video: videokd.VideoReader) -> None:
    frames = json.loads(clip.with_suffix(".json").read_text())["md5_of_little_endian_int32_motion"]
    assert len(frames) == 199
    for frame in frames:
        where = {"gop": frame["gop"], "position": frame["position"]}
        assert md5(video.read(**where).motion) == frame["accumulated"], where
        assert md5(video.read(**where, streams=("motion",), accumulate=False).motion) == frame["previous"], where


def test_pixels_and_residuals(clip: Path, video: videokd.VideoReader) -> None:
    arrays = np.load(clip.with_suffix(".npz"))
    places = sorted({name[:11] for name in arrays})
    assert len(places) == 20
    for place in places:
        gop, position = int(place[3:5]), int(place[9:11])
        for accumulate, suffix in ((True, "accumulated"), (False, "previous")):
            ours = video.read(
                gop=gop, position=position, streams=("motion", "residual", "frame"), accumulate=accumulate
            )
            assert np.array_equal(ours.motion, arrays[f"{place}_motion_{suffix}"])
            frames = np.abs(ours.frame.astype(int) - arrays[f"{place}_frame_rgb"])[:, :WRITTEN_COLUMNS]
            assert frames.max() <= 1
            source_column = np.arange(video.width)[None, :] - ours.motion[..., 0]
            written = (source_column < WRITTEN_COLUMNS) & (np.arange(video.width) < WRITTEN_COLUMNS)[None, :]
            residuals = np.abs(ours.residual.astype(int) - arrays[f"{place}_residual_{suffix}"])
            assert residuals[written].max() <= 2, place


def test_the_last_frame_is_not_lost(video: videokd.VideoReader) -> None:
    assert video.num_frames == 200
    assert video.gops[-1].num_positions == 8
    assert video.read(gop=16, position=7).motion.any()
