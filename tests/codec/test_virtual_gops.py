"""Virtual GOPs: long GOPs are cut where P-frames are, and read as if I-frames stood there; the oracle knows only single frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import videokd
from tests.codec.test_oracles import ALL, SHARED_CLIPS, every_clip, painted
from tests.codec.test_reader import KINDS, digest
from videokd.codec.container import MOTION_CODECS
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.datasets.view import View, central_crop, read_inputs, sample_positions
from videokd.errors import ConfigError
from videokd.kernels.motion import Follower
from videokd.types import Frame, Streams

MakeClip = Callable[..., Path]
LONG = {
    "mpeg4": {"codec": "mpeg4", "gop": 250},
    "mpeg4-b": {"codec": "mpeg4", "gop": 250, "b_frames": 2},
    "mpeg4-b-avi": {"codec": "mpeg4", "gop": 21, "b_frames": 2, "container": "avi"},
    "mpeg2": {"codec": "mpeg2video", "container": "mpg", "gop": 18, "b_frames": 2},
    "h264": {"codec": "libx264", "options": (("x264-params", "bframes=0:ref=1:weightp=0:scenecut=0:keyint=250"),)},
    "h264-default": KINDS["h264-default"],
    "h264-open-gop": KINDS["h264-open-gop"],
    "h264-mkv": KINDS["h264-mkv"],
}


def cut_by_hand(frames: list[Frame], num_frames: int) -> list[list[Frame]]:
    """The I- and P-frames, in display order, as GOPs of at least `num_frames` where no I-frame comes sooner."""
    gops: list[list[Frame]] = []
    for frame in frames:
        if frame.type == "I" or (gops and frame.type in "PS" and frame.number - gops[-1][0].number >= num_frames):
            gops.append([frame])
        elif frame.type in "PS" and gops:
            gops[-1].append(frame)
    return gops


def accumulated(gop: list[Frame]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(motion, residual, valid) at each position of a GOP, pixel by pixel from the definition."""
    first = gop[0].picture
    height, width = first.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    from_row, from_column, valid = rows, columns, np.ones((height, width), np.bool_)
    yield np.zeros((height, width, 2), np.int16), np.zeros(first.shape, np.int16), valid
    for frame in gop[1:]:
        past = frame.vectors[frame.vectors["source"] < 0]
        moved = (past["dst_x"] - past["src_x"], past["dst_y"] - past["src_y"])
        blocks = zip(*(c.tolist() for c in (past["dst_x"], past["dst_y"], past["w"], past["h"], *moved)), strict=True)
        motion, covered = painted(list(blocks), height, width)
        before = rows - motion[..., 1], columns - motion[..., 0]
        from_row, from_column, valid = from_row[before], from_column[before], valid[before] & covered
        motion = np.stack([columns - from_column, rows - from_row], axis=-1).astype(np.int16)
        residual = frame.picture.astype(np.int16) - first[from_row, from_column]
        yield motion, residual, valid


def check_against_oracle(path: Path, num_frames: int) -> VideoIndex:
    with videokd.open(path) as video:
        frames = list(video.frames(pictures=True))
        expected = cut_by_hand(frames, num_frames)
        video.cut_gops(num_frames)
        assert [gop.frame_numbers for gop in video.gops] == [tuple(f.number for f in gop) for gop in expected]
        assert [gop.index for gop in video.gops] == list(range(len(expected)))
        assert [gop.start_seconds for gop in video.gops] == pytest.approx(
            [gop[0].seconds for gop in expected], abs=1e-4
        )
        in_order = list(video.iterate(streams=ALL))
        assert [(frame.number, frame.type) for frame in video.frames()] == [(f.number, f.type) for f in frames]
        index = video.index
    places = [(gop, position) for gop, frames in enumerate(expected) for position in range(len(frames))]
    assert [(streams.gop, streams.position) for streams in in_order] == places
    given = iter(in_order)
    for gop in expected:
        for frame, (motion, residual, valid) in zip(gop, accumulated(gop), strict=True):
            streams = next(given)
            assert np.array_equal(streams.iframe, gop[0].picture)
            assert np.array_equal(streams.frame, frame.picture)
            assert np.array_equal(streams.motion, motion)
            assert np.array_equal(streams.residual, residual)
            assert np.array_equal(streams.valid, valid)
    check_any_order(path, index, in_order)
    return index


def check_any_order(path: Path, index: VideoIndex, in_order: list[Streams]) -> None:
    """One reader at random, a fresh reader for some places, only I-frames, and only motion, which decodes no pictures."""
    index = VideoIndex.from_json(index.to_json())
    chosen = np.random.default_rng(0).permutation(len(in_order))
    with videokd.open(path, index=index) as video, videokd.open(path, index=index) as blind:
        for number in chosen[:40]:
            streams = in_order[number]
            place = {"gop": streams.gop, "position": streams.position}
            assert digest(video.read(**place, streams=ALL)) == digest(streams)
            assert np.array_equal(video.read(**place, streams=("iframe",)).iframe, streams.iframe)
            assert np.array_equal(blind.read(**place, streams=("motion",)).motion, streams.motion)
    for number in chosen[:4]:
        streams = in_order[number]
        with videokd.open(path, index=index) as video:
            assert digest(video.read(gop=streams.gop, position=streams.position, streams=ALL)) == digest(streams)


@pytest.mark.parametrize("kind", LONG)
def test_streams_of_virtual_gops_are_those_of_the_oracle(kind: str, make_clip: MakeClip) -> None:
    index = check_against_oracle(make_clip(**LONG[kind]), 8)
    assert index.cuts or kind == "h264-open-gop"


@every_clip
def test_virtual_gops_of_real_clips(name: str) -> None:
    path = SHARED_CLIPS / name
    with videokd.open(path) as video:
        if video.codec in MOTION_CODECS:
            uncut = video.index
            video.cut_gops(12)
            assert [number for gop in video.gops for number in gop.frame_numbers] == [
                number for gop in uncut.gops for number in gop.frame_numbers
            ]
            in_order = list(video.iterate(streams=("motion", "residual", "iframe", "frame")))[
                :: max(video.num_frames // 20, 1)
            ]
            check_any_order(path, video.index, in_order)


def test_a_real_packed_clip_is_read_as_the_oracle_says() -> None:
    names = sorted(SHARED_CLIPS.glob("v_*.avi"))
    if not names:
        pytest.skip(f"no {SHARED_CLIPS}")
    index = check_against_oracle(names[0], 12)
    assert index.cuts
    assert "b" in index.types.lower()


@pytest.mark.parametrize("kind", ["mpeg4", "h264"])
def test_packets_are_read_from_their_places(kind: str, make_clip: MakeClip) -> None:
    """As from a manifest: without a demuxer, and only crops are computed."""
    path = make_clip(**LONG[kind])
    index = index_video(path).cut(8)
    assert index.places is not None
    with videokd.open(path) as video, videokd.open(path, index=index) as direct:
        video.cut_gops(8)
        assert [digest(streams) for streams in direct.iterate(streams=ALL)] == [
            digest(streams) for streams in video.iterate(streams=ALL)
        ]
        positions = sample_positions([gop.num_positions for gop in index.gops], num_segments=5, first_position=1)
        view = View(positions, (central_crop(128, 96),), (128, 96))
        inputs = {name: (name, 84) for name in ("iframe", "motion", "residual")}
        cropped = read_inputs(direct, view, inputs)
        for at, (gop, position) in enumerate(positions):
            iframe = video.read(gop=gop, position=position, streams=("iframe",)).iframe
            assert np.array_equal(cropped["iframe"][at].transpose(1, 2, 0), iframe[6:90, 22:106])
    assert len({gop for gop, _ in positions}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_gops_that_are_short_enough_stay(kind: str, make_clip: MakeClip) -> None:
    path = make_clip(**KINDS[kind])
    index = index_video(path)
    longest = max(gop.frame_numbers[-1] - gop.frame_numbers[0] for gop in index.gops)
    assert index.cut(longest + 1) == index
    assert index.cut(longest).cuts
    assert "cuts" not in index.to_json()


def test_cuts_are_made_anew_each_time(make_clip: MakeClip) -> None:
    index = index_video(make_clip(**LONG["mpeg4"]))
    assert [gop.num_positions for gop in index.gops] == [30]
    assert [gop.num_positions for gop in index.cut(12).gops] == [12, 12, 6]
    assert index.cut(5).cut(12) == index.cut(12)
    assert index.cut(5).cut(30) == index
    assert len(index.cut(1).gops) == 30
    assert VideoIndex.from_json(index.cut(12).to_json()) == index.cut(12)


def test_an_iframe_starts_a_gop_wherever_it_is(make_clip: MakeClip) -> None:
    """GOPs of 7 cut after 4: the count starts again at each I-frame."""
    index = index_video(make_clip("mpeg4", gop=7)).cut(4)
    assert [gop.num_positions for gop in index.gops] == [4, 3] * 4 + [2]
    assert [gop.start_seconds for gop in index.gops] == pytest.approx(
        [number / 25 for number in (0, 4, 7, 11, 14, 18, 21, 25, 28)]
    )


def test_times_of_a_variable_rate(make_clip: MakeClip) -> None:
    index = index_video(make_clip(**LONG["mpeg4"]))
    times = tuple(round(number**1.5 / 25, 4) for number in range(30))
    cut = replace(index, times=times, seconds=(0.0,)).cut(12)
    assert [gop.start_seconds for gop in cut.gops] == [0, times[12], times[24]]


def test_gops_on_the_way_are_decoded_but_their_vectors_are_not_followed(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = []
    follow = Follower.follow
    monkeypatch.setattr(Follower, "follow", lambda *given, **named: followed.append(1) or follow(*given, **named))
    with videokd.open(make_clip(**LONG["mpeg4"])) as video:
        video.cut_gops(8)
        for gop, position in ((2, 3), (2, 5), (3, 1), (0, 2)):
            video.read(gop=gop, position=position)
    assert len(followed) == 5 + 1 + 2


@pytest.mark.parametrize("num_frames", [0, -1, "12", None, 1.5, float("nan"), True])
def test_a_length_that_is_no_number_is_refused(num_frames: Any, make_clip) -> None:
    with videokd.open(make_clip()) as video, pytest.raises(ConfigError, match="accepted: a whole number from 1 on"):
        video.cut_gops(num_frames)


def test_cutting_ends_an_iteration_that_has_begun(make_clip) -> None:
    with videokd.open(make_clip()) as video:
        begun = video.iterate()
        next(begun)
        video.cut_gops(3)
        with pytest.raises(ConfigError, match="cut while it was read"):
            next(begun)
        assert len(list(video.iterate())) == video.num_frames
