"""The index against ffprobe's list of frames, and every real clip read wholly, by iteration and at random."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.codec.test_streams import KINDS, digest
from videokd.codec.container import MOTION_CODECS, index_video

SHARED_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"
NAMES = sorted(path.name for path in SHARED_CLIPS.glob("*") if path.suffix != ".csv")
ALL = ("iframe", "motion", "residual", "frame")

needs_ffprobe = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe installed")
every_clip = pytest.mark.parametrize(
    "name", NAMES or [pytest.param("none", marks=pytest.mark.skip(f"no {SHARED_CLIPS}"))]
)


def probed_types(path: Path) -> str:
    """The picture type of every frame in display order, by ffprobe."""
    command = [
        "ffprobe",
        "-v",
        "quiet",
        "-select_streams",
        "v:0",
        "-show_entries",
        "frame=pict_type",
        "-of",
        "json",
        path,
    ]
    frames = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["frames"]
    return "".join(frame["pict_type"] for frame in frames)


def indexed_types(path: Path) -> str:
    """The same from videokd's index."""
    index = index_video(path)
    kinds = [kind.upper() for kind in index.types if kind != "-"]
    shown = dict(zip(index.display or range(len(kinds)), kinds, strict=True))
    return "".join(shown[number] for number in range(index.num_frames))


@needs_ffprobe
@pytest.mark.parametrize("kind", KINDS)
def test_generated_clips_have_the_frames_that_ffprobe_lists(kind: str, make_clip) -> None:
    path = make_clip(**KINDS[kind])
    types = probed_types(path)
    assert len(types) == 30
    assert indexed_types(path) == types
    with videokd.open(path) as video:
        positions = [(number, position) for gop in video.gops for position, number in enumerate(gop.frame_numbers)]
    assert "".join(types[number] for number, _ in positions) == "".join("P" if at else "I" for _, at in positions)
    assert len(positions) == 30 - types.count("B")


@needs_ffprobe
@every_clip
def test_real_clips_have_the_frames_that_ffprobe_lists(name: str) -> None:
    assert indexed_types(SHARED_CLIPS / name) == probed_types(SHARED_CLIPS / name)


def test_the_list_of_clips_is_whole() -> None:
    if not NAMES:
        pytest.skip(f"no {SHARED_CLIPS}")
    with open(SHARED_CLIPS / "CLIPS.csv", newline="") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == NAMES


def check_clip(path: Path, most_places: int) -> None:
    """Iterates over all of it, and reads at random; without vectors the I-frames alone."""
    with videokd.open(path) as video:
        streams = ALL if video.codec in MOTION_CODECS else ("iframe", "frame")
        if video.codec not in MOTION_CODECS:
            with pytest.raises(
                videokd.DecodeError, match=rf"is {video.codec}, which exports no motion vectors .* `videokd pre"
            ):
                video.read(gop=0, position=1)
            with pytest.raises(videokd.DecodeError, match="exports no motion vectors"):
                next(video.iterate(streams=("residual",)))
        in_order = {(s.gop, s.position): digest(s) for s in video.iterate(streams=streams)}
        assert list(in_order) == [(gop.index, at) for gop in video.gops for at in range(gop.num_positions)]
        index = video.index
    chosen = np.random.default_rng(1).permutation(len(in_order))[:most_places]
    places = [list(in_order)[number] for number in chosen]
    last = list(in_order)[-1]
    with videokd.open(path, index=index) as video:
        for gop, position in (last, *places):
            given = video.read(gop=gop, position=position, streams=streams)
            assert digest(given) == in_order[gop, position], (gop, position)


@every_clip
def test_real_clips_in_any_order(name: str) -> None:
    check_clip(SHARED_CLIPS / name, most_places=8)


@pytest.mark.slow
@every_clip
def test_every_place_of_real_clips_in_any_order(name: str) -> None:
    check_clip(SHARED_CLIPS / name, most_places=10_000)
