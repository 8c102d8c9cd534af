"""A file read at random gives what it gives in order: containers that seek badly, decoders that keep what came before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.codec.test_traps import ALL, check_order_only, check_reading, decoded, digest, remux, texture, write
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.codec.rgb import read_rgb
from videokd.errors import NeedsTranscoding
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode


def check_everything(path: Path) -> VideoIndex:
    """In order against PyAV, at random in one reader, in a fresh reader each, only I-frames, by number, and from JSON."""
    in_order = {(s.gop, s.position): s for s in check_reading(path)}
    index = VideoIndex.from_json(index_video(path).to_json())
    for (gop, position), streams in list(in_order.items())[:: max(len(in_order) // 5, 1)]:
        with videokd.open(path, index=index) as video:
            assert digest(video.read(gop=gop, position=position, streams=ALL)) == digest(streams)
        with videokd.open(path, index=index) as video:
            assert np.array_equal(video.read(gop=gop, position=0, streams=("iframe",)).iframe, streams.iframe)
    check_numbers(path, index)
    return index


def check_numbers(path: Path, index: VideoIndex | None = None) -> None:
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(path)]
    numbers = np.random.default_rng(0).permutation(len(frames)).tolist()
    for chosen in (numbers, numbers[:3], [numbers[0], numbers[0]]):
        assert np.array_equal(read_rgb(path, chosen, index=index), np.stack([frames[number] for number in chosen]))


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(("codec", "suffix"), [("mpeg1video", "mpg"), ("mpeg2video", "vob"), ("mpeg2video", "mpg")])
def test_program_streams_give_incomplete_packets_after_a_seek(
    tmp_path: Path, codec: str, suffix: str, b_frames: int
) -> None:
    path = write(tmp_path / f"clip.{suffix}", texture(50, 96, 128), codec=codec, context={"max_b_frames": b_frames})
    check_everything(path)


def test_pictures_without_tables_of_their_own(tmp_path: Path) -> None:
    """SWF may give JPEG's tables once, with the first picture."""
    path = write(tmp_path / "clip.avi", texture(10, 96, 128), codec="mjpeg", pixel_format="yuvj420p")
    index = index_video(path)
    assert len(index.keyframes) == 10
    data = path.read_bytes()
    for kind in (b"\xff\xdb", b"\xff\xc4"):  # their segments become comments, but for the first picture's
        first = data.index(kind)
        head, tail = data[: first + 4], data[first + 4 :]
        start = tail.index(b"\xff\xd8")  # of the second picture
        data = head + tail[:start] + tail[start:].replace(kind, b"\xff\xfe")
    path.write_bytes(data)
    assert len(index_video(path).keyframes) == 1
    with videokd.open(path) as video:
        in_order = [s.iframe for s in video.iterate(streams=("iframe",))]
    assert np.array_equal(np.stack(in_order), read_rgb(path, range(10)))
    with videokd.open(path) as video:
        for gop in (7, 2, 9, 0):
            assert np.array_equal(video.read(gop=gop, position=0, streams=("iframe",)).iframe, in_order[gop])


@pytest.mark.parametrize("suffix", ["swf", "mjpeg", "avi", "mkv"])
def test_motion_jpeg(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"clip.{suffix}", texture(20, 96, 128), codec="mjpeg", pixel_format="yuvj420p")
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(path)]
    with videokd.open(path) as video:
        for gop in (13, 2, 19, 0, 1):
            assert np.array_equal(video.read(gop=gop, position=0, streams=("iframe",)).iframe, frames[gop])
    check_numbers(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_an_encoder_whose_errors_the_decoder_corrects_once_it_has_read_its_name(tmp_path: Path, suffix: str) -> None:
    """The encoder's name is only in packet 0. This file claims a build older than the one that made it, so the correction spoils it."""
    path = write(tmp_path / f"clip.{suffix}", texture(30, 96, 128), pixel_format="yuv444p")
    assert len(index_video(path).keyframes) == 3
    data = path.read_bytes()
    at = data.index(b"x264 - core ") + len(b"x264 - core ")
    path.write_bytes(data[:at] + b"142" + data[at + 3 :])
    assert len(index_video(path).keyframes) == 1
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(path)]
    with videokd.open(path) as video:
        in_order = {(s.gop, s.position): digest(s) for s in video.iterate(streams=("motion", "frame"))}
        for streams in video.iterate(streams=("frame",)):
            assert np.array_equal(streams.frame, frames[video.gops[streams.gop].frame_numbers[streams.position]])
    for place in ((2, 3), (1, 0), (0, 5)):
        with videokd.open(path) as video:
            gop, position = place
            only = video.read(gop=gop, position=position, streams=("motion",)).motion
            both = video.read(gop=gop, position=position, streams=("motion", "frame"))
            assert digest(both) == in_order[place]
            assert np.array_equal(only, both.motion)


def join_flv(first: Path, second: Path, target: Path, *, seconds: float) -> Path:
    """One FLV of two, the second's tags moved in time: its configuration comes in the middle."""
    data, at = second.read_bytes(), 13
    joined = bytearray(first.read_bytes())
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        tag = bytearray(data[at : at + 15 + size])
        stamp = int.from_bytes(tag[4:7], "big") + round(1000 * seconds)
        tag[4:7] = stamp.to_bytes(3, "big")
        if tag[0] == 9:
            joined += tag
        at += 15 + size
    target.write_bytes(joined)
    return target


def test_flv_whose_configuration_changes_midway(tmp_path: Path) -> None:
    parts = []
    for name, params in (("a", "cabac=0:ref=1"), ("b", "cabac=1:8x8dct=1:ref=1")):
        options = {"x264-params": f"bframes=0:scenecut=0:keyint=6:min-keyint=6:{params}"}
        parts.append(write(tmp_path / f"{name}.flv", texture(24, 96, 128), options=options))
    path = join_flv(*parts, tmp_path / "joined.flv", seconds=0.96)
    assert len(decoded(path)) == 48
    check_everything(path)


@pytest.mark.parametrize("repeated", [False, True])
def test_parameter_sets_that_change_midway(tmp_path: Path, repeated: bool) -> None:
    joined = b""
    for params in ("cabac=0:qp=20", "cabac=1:8x8dct=1:qp=34"):
        options = {"x264-params": f"bframes=0:ref=1:scenecut=0:keyint=6:min-keyint=6:{params}"}
        units = write(tmp_path / "part.h264", texture(24, 96, 128), options=options).read_bytes().split(b"\0\0\1")[1:]
        seen = set()
        for unit in (unit.rstrip(b"\0") for unit in units):
            kind = unit[0] & 31
            if repeated or kind not in (7, 8) or kind not in seen:
                joined += b"\0\0\0\1" + unit
            seen.add(kind)
    path = tmp_path / "joined.h264"
    path.write_bytes(joined)
    index = check_everything(path)
    assert len(index.keyframes) == (8 if repeated else 5)


@pytest.mark.parametrize("suffix", ["ts", "h264", "avi", "mkv"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_i_frames_behind_which_older_frames_are_referred_to(tmp_path: Path, suffix: str, b_frames: int) -> None:
    """Demuxers flag every I-frame of H.264 as a keyframe where the container has no flags; x264 refers across some."""
    looks = [np.random.default_rng(seed).permutation(256).astype(np.uint8) for seed in (0, 1)]
    scenes = np.concatenate([looks[n % 2][texture(7, 96, 128, seed=n % 2)] for n in range(4)])
    params = f"bframes={b_frames}:ref=5:keyint=250:min-keyint=60:scenecut=80"
    path = write(tmp_path / f"cuts.{suffix}", scenes, options={"x264-params": params})
    index = check_everything(path)
    assert index.types.count("I") > len(index.keyframes)


@pytest.mark.parametrize("suffix", ["avi", "asf", "mxf", "h264", "ts", "mp4"])
def test_display_order_where_the_container_has_one_timestamp_a_packet(tmp_path: Path, suffix: str) -> None:
    options = {"x264-params": "bframes=3:b-pyramid=2:keyint=12:min-keyint=12:scenecut=0"}
    path = write(tmp_path / f"clip.{suffix}", texture(30, 96, 128), options=options)
    check_everything(path)
    with videokd.open(path) as video:
        assert [gop.start_seconds for gop in video.gops] == pytest.approx([0, 0.48, 0.96], abs=0.002)


def test_display_order_without_a_table_of_composition_times(tmp_path: Path) -> None:
    options = {"x264-params": "bframes=3:keyint=12:scenecut=0"}
    path = write(tmp_path / "clip.mp4", texture(30, 96, 128), options=options, muxer={"use_editlist": "0"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"ctts", b"free"))
    index = check_everything(path)
    assert index.gops[0].frame_numbers != tuple(range(index.gops[0].num_positions))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_ordinary_files_are_indexed_without_decoding(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(decoder: object) -> VideoIndex:
        raise AssertionError("decoded")

    monkeypatch.setattr("videokd.codec.indexing.index_by_decoding", refuse)
    for b_frames in (0, 2):
        options = {"x264-params": f"keyint=12:bframes={b_frames}"} if codec == "libx264" else {}
        path = write(
            tmp_path / f"{codec}{b_frames}.mp4",
            texture(30, 96, 128),
            codec=codec,
            options=options,
            context={"max_b_frames": b_frames},
        )
        assert len(index_video(path).keyframes) == 3


def test_an_index_without_checksums_still_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", texture(30, 96, 128), codec="mpeg4")
    index = index_video(path)
    old = VideoIndex.from_json(dataclasses.replace(index, checksums=()).to_json())
    assert "checksums" not in old.to_json()
    with videokd.open(path, index=old) as a, videokd.open(path, index=index) as b:
        for gop in (2, 0, 1):
            assert digest(a.read(gop=gop, position=5)) == digest(b.read(gop=gop, position=5))
    check_order_only(path)


def test_the_same_picture_again_and_again(tmp_path: Path) -> None:
    """Its keyframes' packets are equal: there the content does not tell which one came after a seek."""
    for suffix in ("mov", "mjpeg", "avi"):
        still = np.repeat(texture(1, 96, 128), 10, axis=0)
        path = write(tmp_path / f"still.{suffix}", still, codec="mjpeg", pixel_format="yuvj420p")
        assert len(set(index_video(path).checksums)) < 3
        with videokd.open(path) as video:
            second = video.read(gop=1, position=0, streams=("iframe",)).iframe
            for gop in (7, 2, 9):
                assert np.array_equal(video.read(gop=gop, position=0, streams=("iframe",)).iframe, second)
        check_numbers(path)


def test_times_of_a_variable_rate(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 3, 4, 5, 6, 7, 8, *range(100, 721, 31)]
    path = write(tmp_path / "variable.mkv", texture(30, 96, 128), codec="mpeg4", stamps=stamps)
    index = VideoIndex.from_json(index_video(path).to_json())
    assert index.duration_seconds == pytest.approx(stamps[-1] / 25 + 0.04, abs=0.01)
    assert [index.seconds_of(number) for number in range(30)] == pytest.approx([s / 25 for s in stamps], abs=0.001)
    even = index_video(write(tmp_path / "even.mkv", texture(30, 96, 128), codec="mpeg4"))
    assert (even.times, even.duration, even.duration_seconds) == ((), 0.0, 1.2)
    assert even.seconds_of(25) == pytest.approx(1.0)


def test_a_reader_says_what_it_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", texture(30, 96, 128), codec="mpeg4")
    with videokd.open(path) as video:
        assert repr(video) == f"VideoReader('{path}': mpeg4, 128×96, 30 frames in 1.20 s, 3 GOPs, exact)"
    assert repr(video).endswith("closed)")


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("starts", [(0, 2500), (2500, 0), (0, 10**6)])
def test_joined_recordings_last_as_long_as_both(tmp_path: Path, codec: str, starts: tuple[int, int]) -> None:
    """Each has a clock of its own: the time between them was not filmed, and no copies fill it."""
    parts = []
    for start in starts:
        stamps = [start + n for n in range(24)]
        parts.append(write(tmp_path / f"{start}.ts", texture(24, 48, 64), codec=codec, stamps=stamps).read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    index = index_video(path)
    assert index.num_frames == 48
    assert index.duration_seconds == pytest.approx(1.92, abs=0.1)
    assert transcode(path, tmp_path / "out.mp4", Encoding(short_side=48, resample=25)).num_written == pytest.approx(
        48, abs=2
    )


def test_a_picture_that_is_shown_twice(tmp_path: Path) -> None:
    """Without its I-frame, MPEG-4 with B-frames shows its first P-frame twice: packets and frames cannot be matched."""
    whole = write(tmp_path / "whole.avi", texture(30, 96, 128), codec="mpeg4", context={"max_b_frames": 2})
    path = remux(whole, tmp_path / "cut.avi", drop_first=2)
    shown = len(decoded(path))
    with pytest.raises(NeedsTranscoding, match=r"cut\.avi begins inside a GOP.*shows a picture twice"):
        videokd.open(path)
    assert transcode(path, tmp_path / "out.mp4", Encoding(short_side=48)).num_written == shown


@pytest.mark.parametrize(("suffix", "muxer"), [("mkv", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_a_file_after_itself_is_not_sought_in(tmp_path: Path, suffix: str, muxer: dict[str, str]) -> None:
    """Every time comes twice: a seek finds the first, and Matroska ends behind its own segment then."""
    path = write(tmp_path / f"clip.{suffix}", texture(40, 96, 128), codec="mpeg4", muxer=muxer)
    path.write_bytes(2 * path.read_bytes())
    check_numbers(path)
    with videokd.open(path) as video:
        in_order = {(s.gop, s.position): digest(s) for s in video.iterate(streams=ALL)}
        gops = len(video.gops)
    assert gops > 5
    for gop in (gops - 1, 1, gops - 2):
        with videokd.open(path) as video:
            assert digest(video.read(gop=gop, position=2, streams=ALL)) == in_order[gop, 2]
