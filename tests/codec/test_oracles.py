"""The index against ffprobe's list of frames, and every real clip read wholly, by iteration and at random."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from tests.codec.test_reader import KINDS, digest
from videokd.codec.container import MOTION_CODECS
from videokd.codec.indexing import index_video

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
    """Iterates over a whole video, and reads at random; only the I-frames if the codec exports no vectors."""
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


def last_p_frame(path: Path, *, appended: bool) -> list[tuple[int, ...]]:
    """(x, y, w, h, dx, dy) of the past vectors of a file's last P-frame, with PyAV only; copies of its first packet may follow."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs"}
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        frames = []
        # Two, since the last packet of a "packed" file may hold two pictures, and the decoder then drops what comes next
        for number, data in enumerate([*packets, packets[0], packets[0]] if appended else packets):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            frames += stream.codec_context.decode(packet)
        frames += stream.codec_context.decode(None)
    last = [frame for frame in frames if frame.pts < len(packets) and int(frame.pict_type) == 2][-1]
    return [
        (v.dst_x, v.dst_y, v.w, v.h, v.dst_x - v.src_x, v.dst_y - v.src_y)
        for v in last.side_data.get("MOTION_VECTORS") or ()
        if v.source < 0
    ]


def painted(vectors: list[tuple[int, ...]], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(motion, valid) of one frame, from the definition: the last non-zero vector that covers a pixel, source inside."""
    motion, valid = np.zeros((height, width, 2), np.int16), np.zeros((height, width), np.bool_)
    for x, y, wide, high, right, down in vectors:
        left, top = x - wide // 2, y - high // 2
        block = np.s_[
            max(top, 0, down) : max(min(top + high, height, height + down), 0),
            max(left, 0, right) : max(min(left + wide, width, width + right), 0),
        ]
        valid[block] = True
        if right or down:
            motion[block] = (right, down)
    return motion, valid


def check_last_vectors(path: Path) -> bool:
    """Compares with the file that has a packet appended; tells whether plain flushing would have lost the vectors."""
    expected = last_p_frame(path, appended=True)
    assert expected
    with videokd.open(path) as video:
        # the last P-frame in display order is the last position of the last GOP that has one
        gop = [gop for gop in video.gops if gop.num_positions > 1][-1]
        given = video.read(gop=gop.index, position=gop.num_positions - 1, streams=("motion",), accumulate=False)
        motion, valid = painted(expected, video.height, video.width)
    assert np.array_equal(given.motion, motion)
    assert np.array_equal(given.valid, valid)
    return not last_p_frame(path, appended=False)


@pytest.mark.parametrize("container", ["avi", "mp4", "mkv", "ts"])
@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mpeg1video"])
def test_the_last_vectors_are_those_of_the_same_file_with_a_packet_appended(
    codec: str, container: str, make_clip
) -> None:
    """The trap: with B-frames, MPEG-1/2/4 put out their last P-frame, held back for them, without its vectors."""
    assert check_last_vectors(make_clip(codec, container=container, b_frames=2, num_frames=10))


def test_the_last_vectors_of_real_clips() -> None:
    if not NAMES:
        pytest.skip(f"no {SHARED_CLIPS}")
    trapped = [name for name in NAMES if name != "166766.mp4" and check_last_vectors(SHARED_CLIPS / name)]
    assert len(trapped) == 9
