"""Positions of a stream have the values that `videokd.open` gives for the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MakeClip
from videokd.bitstream.h264_headers import PictureNumbers
from videokd.codec.reader import open_video
from videokd.datasets.view import View, central_crop, read_inputs
from videokd.errors import DecodeError
from videokd.live.clock import StreamClock
from videokd.live.connection import Connection
from videokd.live.crops import Cropper
from videokd.live.positions import PositionReader
from videokd.live.sources import sources_of

INPUTS = {"iframe": ("iframe", 40), "motion": ("motion", 40), "residual": ("residual", 40), "rgb@24": ("rgb", 24)}
H264 = (("preset", "veryfast"),)
ONE_REFERENCE = (*H264, ("x264-params", "ref=1:scenecut=0"))


@contextmanager
def connected(path: Path | str) -> Iterator[Connection]:
    (source,) = sources_of([str(path)])
    with Connection(source, attempt=0, seconds=5.0, stopped=threading.Event()) as connection:
        yield connection


def positions_of(path: Path | str, *, gop: int | None, spoil: Any = None) -> list[tuple[int, int, float, Any]]:
    """(gop, position, seconds, crops) of every position; `spoil` changes the list of packets."""
    found = []
    with connected(path) as connection:
        reader = PositionReader(connection.context, chained=True, gop=gop)
        clock = StreamClock(connection.tick, connection.frame_rate)
        cropper = Cropper(INPUTS)
        packets = (packet for packet, _ in connection.packets())
        for number, packet in enumerate(packets):
            seconds = clock.of(packet)
            if spoil is not None and spoil(number):
                continue
            for place in reader.feed(packet, seconds, 0.0):
                found.append((place.gop, place.position, place.seconds, cropper.crops_at(place)))
        for place in reader.flush():
            found.append((place.gop, place.position, place.seconds, cropper.crops_at(place)))
    return found


def check_against_file(
    found: list[tuple[int, int, float, Any]], path: Path, *, gop: int | None, missing: int = 0
) -> None:
    with open_video(path) as video:
        if gop is not None:
            video.cut_gops(gop)
        expected = [(g.index, position) for g in video.gops for position in range(g.num_positions)]
        lost_at_end = video.codec != "h264" and "B" in video.index.types.upper()  # FFmpeg gives it without its vectors
        assert [each[:2] for each in found] == expected[: len(expected) - lost_at_end - missing]
        size = video.width, video.height
        crop = central_crop(*size)
        for number, position, seconds, crops in found:
            start = video.index.seconds_of(video.gops[0].frame_numbers[0])
            shown = video.index.seconds_of(video.gops[number].frame_numbers[position])
            assert seconds - found[0][2] == pytest.approx(shown - start, abs=0.02)
            if position:
                read = read_inputs(video, View(((number, position),), (crop,), size), INPUTS)
                for key, values in read.items():
                    np.testing.assert_array_equal(crops[key].transpose(2, 0, 1), values[0])


@pytest.mark.parametrize(
    ("codec", "container", "given"),
    [
        ("libx264", "ts", {"gop": 12, "options": ONE_REFERENCE}),
        ("libx264", "mp4", {"gop": 12, "options": ONE_REFERENCE, "size": (134, 98)}),
        ("libx264", "ts", {"gop": 250, "options": H264, "b_frames": 3, "num_frames": 60}),
        ("libx264", "mkv", {"gop": 250, "options": H264, "num_frames": 60}),
        ("libx264", "h264", {"gop": 15, "options": H264}),
        ("mpeg4", "avi", {"gop": 12}),
        ("mpeg4", "ts", {"gop": 30, "num_frames": 60}),
        ("mpeg2video", "ts", {"gop": 12, "b_frames": 2}),
        ("mpeg4", "avi", {"gop": 15, "b_frames": 2}),
        ("flv", "flv", {"gop": 12}),
    ],
)
def test_values_are_those_of_the_file(make_clip: MakeClip, codec: str, container: str, given: dict[str, Any]) -> None:
    path = make_clip(codec, container=container, **given)
    check_against_file(positions_of(path, gop=12), path, gop=12)


def test_long_gops_are_cut_only_where_that_is_wanted(make_clip: MakeClip) -> None:
    path = make_clip("libx264", container="ts", gop=250, num_frames=60, options=ONE_REFERENCE)
    assert {each[0] for each in positions_of(path, gop=None)} == {0}
    assert {each[0] for each in positions_of(path, gop=12)} == {0, 1, 2, 3, 4}


def test_a_size_that_changes_begins_a_gop_of_the_new_size(make_clip: MakeClip, tmp_path: Path) -> None:
    clips = [
        make_clip("libx264", container="ts", gop=12, size=size, options=ONE_REFERENCE)
        for size in ((128, 96), (160, 120), (96, 128))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    found = positions_of(joined, gop=12)
    assert [each[2] for each in found] == sorted(each[2] for each in found)
    for third, clip in enumerate(clips):
        own = [
            (number - 3 * third, position, seconds, crops)
            for number, position, seconds, crops in found
            if number // 3 == third
        ]
        # FFmpeg drops the pictures that it holds back for reordering where the size changes
        check_against_file(own, clip, gop=12, missing=30 - len(own))
        assert len(own) >= 28


@pytest.mark.parametrize("damaged", [True, False])
def test_a_lost_picture_costs_what_depends_on_it(damaged: bool, make_clip: MakeClip) -> None:
    """What is left out to catch up is no damage."""
    path = make_clip("mpeg4", container="ts", gop=10, num_frames=40)
    (source,) = sources_of([str(path)])
    with Connection(source, attempt=0, seconds=5.0, stopped=threading.Event()) as connection:
        reader = PositionReader(connection.context, chained=True, gop=None)
        found = []
        for number, (packet, _) in enumerate(connection.packets()):
            if number == 14 and not damaged:
                reader.skip(number * 0.04)
            packet.is_corrupt = packet.is_corrupt or (damaged and number == 14)
            if damaged or not 14 <= number < 17:
                found += [(place.gop, place.position) for place in reader.feed(packet, number * 0.04, 0.0)]
    assert found == [(number, position) for number in range(4) for position in range(10) if number != 1 or position < 4]
    assert reader.damaged_seconds == pytest.approx(0.24 if damaged else 0.0)


@pytest.mark.parametrize("container", ["ts", "mp4"])
def test_a_picture_that_is_missing_without_notice_costs_what_depends_on_it(make_clip: MakeClip, container: str) -> None:
    path = make_clip("libx264", container=container, gop=12, num_frames=48, options=ONE_REFERENCE)
    found = positions_of(path, gop=None, spoil=lambda number: number in (15, 36))  # a P-frame, and an I-frame
    expected = [(0, position) for position in range(12)] + [(1, position) for position in range(3)]
    assert [each[:2] for each in found] == [*expected, *((2, position) for position in range(12))]


def test_numbers_of_pictures_are_no_false_alarm(make_clip: MakeClip) -> None:
    for options in (H264, (*H264, ("x264-params", "bframes=3:b-pyramid=normal:open-gop=1"))):
        path = make_clip("libx264", container="ts", gop=12, num_frames=80, options=options, b_frames=3)
        numbers = PictureNumbers(b"")
        with connected(path) as connection:
            packets = [packet for packet, _ in connection.packets()]
        assert len(packets) == 80
        assert not any(numbers.misses(bytes(packet), keyframe=packet.is_keyframe) for packet in packets)


def test_a_stream_that_begins_inside_a_gop_waits_for_an_i_frame(make_clip: MakeClip) -> None:
    path = make_clip("mpeg4", container="ts", gop=10, num_frames=30)
    found = positions_of(path, gop=None, spoil=lambda number: number < 5)
    assert [each[:2] for each in found] == [(number, position) for number in range(2) for position in range(10)]


def test_a_stream_without_i_frames_is_taken_as_it_is_after_a_while(make_clip: MakeClip) -> None:
    path = make_clip("mpeg4", container="ts", gop=600, num_frames=500, size=(64, 64))
    found = positions_of(path, gop=None, spoil=lambda number: number < 20)
    assert found[0][:2] == (0, 0)
    assert found[0][2] == pytest.approx(15.8, abs=0.1)
    assert len(found) == 500 - 20 - 375


def test_pictures_that_need_too_much_memory_are_refused(make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    from videokd.live import positions

    monkeypatch.setattr(positions, "_MOST_BYTES", 1 << 10)
    path = make_clip("mpeg4")
    with pytest.raises(DecodeError, match=r"pictures of 128×96 take \d+ MiB"):
        positions_of(path, gop=None)
