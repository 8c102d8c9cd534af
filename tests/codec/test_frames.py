"""Raw vectors: every frame in display order, equal to what PyAV gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from tests.codec.test_oracles import SHARED_CLIPS, every_clip, last_p_frame
from tests.codec.test_reader import KINDS, digest
from videokd.codec.container import MOTION_CODECS

FIELDS = ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "flags", "motion_x", "motion_y", "motion_scale")
#: FFmpeg may give the last P-frame of these without its vectors.
LOSES_LAST = ("mpeg4", "mpeg1video", "mpeg2video")
MakeClip = Callable[..., Path]


def decoded_by_pyav(path: Path) -> list[tuple[str, np.ndarray | None, np.ndarray]]:
    """(type, vectors or None, RGB) of every frame in display order, with PyAV only."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs"}
        for frame in container.decode(stream):
            given = frame.side_data.get("MOTION_VECTORS")
            vectors = None if given is None else given.to_ndarray().copy()
            found.append((" IPBS"[int(frame.pict_type)], vectors, frame.to_ndarray(format="rgb24")))
    return found


def check_frames(path: Path, *, pictures: bool) -> None:
    expected = decoded_by_pyav(path)
    last_p = max((n for n, (kind, _, _) in enumerate(expected) if kind == "P"), default=-1)
    with videokd.open(path) as video:
        frames = list(video.frames(pictures=pictures))
        assert [frame.number for frame in frames] == list(range(video.num_frames)) == list(range(len(expected)))
        assert video._decoder._pictures is (pictures or video.index.vectors_need_pictures)
        starts = {gop.frame_numbers[0]: gop.start_seconds for gop in video.gops}
        assert all(abs(frames[number].seconds - seconds) < 1 / video.frame_rate for number, seconds in starts.items())
        assert sorted(frame.seconds for frame in frames) == [frame.seconds for frame in frames]
        loses = video.codec in LOSES_LAST
    for frame, (kind, vectors, picture) in zip(frames, expected, strict=True):
        assert frame.type == kind
        assert frame.vectors.dtype.names == FIELDS
        if loses and frame.number == last_p and vectors is None:
            past = frame.vectors[frame.vectors["source"] < 0]
            moved = (past["dst_x"] - past["src_x"], past["dst_y"] - past["src_y"])
            columns = (past["dst_x"], past["dst_y"], past["w"], past["h"], *moved)
            assert [*zip(*(column.tolist() for column in columns), strict=True)] == last_p_frame(path, appended=True)
        else:
            assert len(frame.vectors) == (0 if vectors is None else len(vectors))
            assert all(np.array_equal(frame.vectors[name], vectors[name]) for name in FIELDS if vectors is not None), (
                frame
            )
        assert np.array_equal(frame.picture, picture) if pictures else frame.picture is None


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_has_the_vectors_that_pyav_gives(kind: str, pictures: bool, make_clip: MakeClip) -> None:
    check_frames(make_clip(**KINDS[kind]), pictures=pictures)


@every_clip
def test_real_clips_have_the_vectors_that_pyav_gives(name: str) -> None:
    path = SHARED_CLIPS / name
    with videokd.open(path) as video:
        has_vectors = video.codec in MOTION_CODECS
    if has_vectors:
        check_frames(path, pictures=False)
        return
    with videokd.open(path) as video:
        with pytest.raises(videokd.DecodeError, match="exports no motion vectors"):
            next(video.frames())
        frames = list(video.frames(vectors=False, pictures=True))
    for frame, (kind, _, picture) in zip(frames, decoded_by_pyav(path), strict=True):
        assert (frame.type, frame.vectors) == (kind, None)
        assert np.array_equal(frame.picture, picture)


def test_motion_follows_from_vectors(make_clip: MakeClip) -> None:
    """As docs/raw-vectors.md says: the displacement of a block's content is dst − src, to the pixel."""
    with videokd.open(make_clip("mpeg4", step=(4, -2))) as video:
        vectors = next(frame for frame in video.frames() if frame.number == 5).vectors
        assert (vectors["source"] == -1).all()
        exact = vectors["motion_x"] / vectors["motion_scale"], vectors["motion_y"] / vectors["motion_scale"]
        assert np.array_equal(vectors["src_x"], vectors["dst_x"] + np.trunc(exact[0]).astype(int))
        assert np.median(vectors["dst_x"] - vectors["src_x"]) == 4
        assert np.median(vectors["dst_y"] - vectors["src_y"]) == -2
        motion = video.read(gop=0, position=5, streams=("motion",), accumulate=False).motion
        for vector in vectors[:40]:
            assert motion[vector["dst_y"], vector["dst_x"]].tolist() == [
                vector["dst_x"] - vector["src_x"],
                vector["dst_y"] - vector["src_y"],
            ]


@pytest.mark.parametrize("kind", ["mpeg4-b", "mpeg4-b-avi", "h264-open-gop", "h264-default", "mpeg1", "wmv2"])
def test_reading_in_between_changes_nothing(kind: str, make_clip: MakeClip) -> None:
    path = make_clip(**KINDS[kind])
    with videokd.open(path) as video:
        expected = [(frame.type, frame.vectors.tobytes()) for frame in video.frames()]
        streams = digest(video.read(gop=0, position=2))
    with videokd.open(path) as video:
        found = []
        others = video.frames(vectors=False, pictures=True)
        for frame in video.frames():
            if frame.number % 7 == 3:
                assert digest(video.read(gop=0, position=2)) == streams
            if frame.number % 9 == 4:
                assert next(others).number == frame.number // 9
            found.append((frame.type, frame.vectors.tobytes()))
    assert found == expected


def test_arrays_belong_to_the_caller(make_clip: MakeClip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        frames = list(video.frames(pictures=True))
        before = [frame.vectors.tobytes() for frame in frames]
        for frame in frames:
            frame.vectors["src_x"] += 1
            frame.picture[:] = 0
        assert [frame.vectors.tobytes() for frame in video.frames()] == before
    assert repr(frames[0]) == "Frame(number=0, seconds=0.0, type='I', vectors=struct[0], picture=uint8[96, 128, 3])"


def test_frames_of_a_closed_reader(make_clip: MakeClip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        frames = video.frames()
        next(frames)
    with pytest.raises(videokd.ConfigError, match=r"is closed \(accepted: an open reader\)"):
        next(frames)


def test_frames_of_a_file_that_is_damaged_midway(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("mpeg4", container="avi")
    with videokd.open(path) as video:
        index = video.index
    cut = tmp_path / "cut.avi"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with (
        videokd.open(cut, index=replace(index, sums="")) as video,
        pytest.raises(videokd.DecodeError, match=r"cut\.avi: frame \d+ cannot be"),
    ):
        list(video.frames())
