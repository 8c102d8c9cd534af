"""Reading: any order gives what going through the file gives, for every kind of stream."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from videokd.codec.container import PictureDecoder
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.types import Streams

H264_PLAIN = (("x264-params", "bframes=0:ref=1:weightp=0:scenecut=0:keyint=12:min-keyint=12"),)
H264_SLICES = (("x264-params", "bframes=0:ref=1:weightp=0:keyint=10:slices=4"),)
H264_PYRAMID = (("x264-params", "bframes=3:b-pyramid=normal:ref=4:keyint=20"),)
H264_OPEN = (("x264-params", "bframes=2:open-gop=1:keyint=10:min-keyint=5"),)

KINDS = {
    "mpeg4": {"codec": "mpeg4"},
    "mpeg4-avi": {"codec": "mpeg4", "container": "avi"},
    "mpeg4-raw": {"codec": "mpeg4", "container": "m4v"},
    "mpeg4-b": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4-b-avi": {"codec": "mpeg4", "b_frames": 2, "container": "avi"},
    "mpeg4-4mv-qpel": {"codec": "mpeg4", "options": (("flags", "+mv4+qpel"), ("mbd", "rd"))},
    "mpeg1": {"codec": "mpeg1video", "container": "mpg", "b_frames": 2},
    "mpeg2-ts": {"codec": "mpeg2video", "container": "ts", "b_frames": 2},
    "h264": {"codec": "libx264", "options": H264_PLAIN},
    "h264-default": {"codec": "libx264", "gop": 250, "b_frames": 3},
    "h264-pyramid": {"codec": "libx264", "options": H264_PYRAMID},
    "h264-open-gop": {"codec": "libx264", "options": H264_OPEN},
    "h264-slices": {"codec": "libx264", "options": H264_SLICES},
    "h264-mkv": {"codec": "libx264", "container": "mkv", "gop": 250, "b_frames": 3},
    "h264-ts": {"codec": "libx264", "container": "ts", "gop": 250, "b_frames": 3},
    "h264-raw": {"codec": "libx264", "container": "h264", "options": H264_PLAIN},
    "h263": {"codec": "h263", "container": "avi", "size": (176, 144)},
    "wmv2": {"codec": "wmv2", "container": "avi"},
    "wmv1": {"codec": "wmv1", "container": "avi"},
    "msmpeg4": {"codec": "msmpeg4", "container": "avi"},
    "flv": {"codec": "flv", "container": "flv"},
    "rv10": {"codec": "rv10", "container": "rm"},
    "rv20": {"codec": "rv20", "container": "rm"},
    "odd-size": {"codec": "mpeg4", "size": (150, 98)},
}


def digest(streams: Streams) -> str:
    arrays = (streams.iframe, streams.frame, streams.motion, streams.residual, streams.valid)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays if a is not None)).hexdigest()


def decoded_types(path: Path) -> list[tuple[str, np.ndarray]]:
    """(picture type, RGB) of every frame in display order, with PyAV only."""
    names = {1: "I", 2: "P", 3: "B", 4: "S"}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return [(names[int(frame.pict_type)], frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_position_in_any_order(kind: str, make_clip) -> None:
    path = make_clip(**KINDS[kind])
    everything = ("iframe", "motion", "residual", "frame")
    oracle = decoded_types(path)
    with videokd.open(path) as video:
        assert video.num_frames == len(oracle) == 30
        in_order = {(s.gop, s.position): s for s in video.iterate(streams=everything)}
        assert [g.num_positions for g in video.gops] == [
            1 + rest.count("P") for rest in "".join(k for k, _ in oracle).split("I")[1:]
        ]
        for gop in video.gops:
            for position, number in enumerate(gop.frame_numbers):
                assert oracle[number][0] == ("I" if position == 0 else "P")
                assert np.array_equal(in_order[gop.index, position].frame, oracle[number][1])
    order = list(in_order)
    np.random.default_rng(0).shuffle(order)
    with videokd.open(path) as video:
        for gop, position in order:
            again = video.read(gop=gop, position=position, streams=everything)
            assert digest(again) == digest(in_order[gop, position]), (gop, position)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_motion_read_without_pictures_is_the_same(kind: str, accumulate: bool, make_clip) -> None:
    """If only motion is read, the decoder skips the pictures, or decodes them at an eighth of their size."""
    path = make_clip(**KINDS[kind])
    with videokd.open(path) as video:
        full = list(video.iterate(streams=("motion", "frame"), accumulate=accumulate))
    with videokd.open(path) as video:
        alone = list(video.iterate(streams=("motion",), accumulate=accumulate))
        assert not video._decoder._pictures
    for one, other in zip(full, alone, strict=True):
        assert np.array_equal(one.motion, other.motion)
        assert np.array_equal(one.valid, other.valid)


@pytest.mark.parametrize("kind", ["mpeg4-b", "h264-open-gop", "wmv2"])
def test_pictures_read_after_only_motion(kind: str, make_clip) -> None:
    path = make_clip(**KINDS[kind])
    everything = ("iframe", "motion", "residual", "frame")
    with videokd.open(path) as video:
        expected = digest(video.read(gop=1, position=2, streams=everything))
    with videokd.open(path) as video:
        motion = video.read(gop=1, position=2, streams=("motion",)).motion
        assert digest(video.read(gop=1, position=2, streams=everything)) == expected
        assert np.array_equal(video.read(gop=1, position=2, streams=("motion",)).motion, motion)


@pytest.mark.parametrize("kind", ["mpeg4", "mpeg4-b", "h264", "h264-default"])
def test_warped_iframe_plus_residual_is_the_frame(kind: str, make_clip) -> None:
    with videokd.open(make_clip(**KINDS[kind])) as video:
        for streams in video.iterate(streams=("iframe", "motion", "residual", "frame")):
            rows, columns = np.mgrid[: video.height, : video.width]
            warped = streams.iframe[rows - streams.motion[..., 1], columns - streams.motion[..., 0]]
            assert np.array_equal(warped.astype(int) + streams.residual, streams.frame)


def plain_python_field(path: Path, height: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(motion, valid) after each frame of a file without B-frames, pixel by pixel, from the formulas."""
    fields = []
    source, valid = {}, {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs"}
        for frame in container.decode(stream):
            pixels = [(x, y) for y in range(height) for x in range(width)]
            if int(frame.pict_type) == 1:
                source, valid = {p: p for p in pixels}, dict.fromkeys(pixels, True)
            else:
                d, covered = dict.fromkeys(pixels, (0, 0)), set()
                for v in frame.side_data.get("MOTION_VECTORS") or ():
                    dx, dy = v.dst_x - v.src_x, v.dst_y - v.src_y
                    for y in range(v.dst_y - v.h // 2, v.dst_y + v.h - v.h // 2):
                        for x in range(v.dst_x - v.w // 2, v.dst_x + v.w - v.w // 2):
                            if (x, y) in d and (x - dx, y - dy) in d:
                                covered.add((x, y))
                                d[x, y] = (dx, dy) if dx or dy else d[x, y]
                valid = {p: p in covered and valid[p[0] - d[p][0], p[1] - d[p][1]] for p in pixels}
                source = {p: source[p[0] - d[p][0], p[1] - d[p][1]] for p in pixels}
            motion = [(p[0] - source[p][0], p[1] - source[p][1]) for p in pixels]
            shape = (height, width)
            fields.append((np.reshape(motion, (*shape, 2)), np.reshape([valid[p] for p in pixels], shape)))
    return fields


@pytest.mark.parametrize("kind", ["mpeg4", "mpeg4-4mv-qpel", "h264"])
def test_motion_equals_a_plain_loop(kind: str, make_clip) -> None:
    settings = KINDS[kind] | {"num_frames": 9, "size": (68, 52), "step": (5, 2)}
    path = make_clip(**settings)
    expected = plain_python_field(path, 52, 68)
    with videokd.open(path) as video:
        moved = 0
        for number, streams in enumerate(video.iterate(streams=("motion",))):
            assert np.array_equal(streams.motion, expected[number][0])
            assert np.array_equal(streams.valid, expected[number][1])
            moved += np.count_nonzero(streams.motion)
        assert moved


@pytest.mark.parametrize(
    "kind", ["mpeg4", "mpeg1", "mpeg2-ts", "h264", "h263", "wmv1", "wmv2", "msmpeg4", "flv", "rv10", "rv20"]
)
def test_content_that_moves_right_has_positive_x(kind: str, make_clip) -> None:
    with videokd.open(make_clip(**KINDS[kind] | {"step": (4, -2), "gop": 12, "b_frames": 0})) as video:
        motion = video.read(gop=0, position=5, accumulate=False).motion[32:64, 48:112]
    assert np.median(motion.reshape(-1, 2), axis=0).tolist() == [4, -2]


@pytest.mark.parametrize("kind", ["mpeg4-b", "mpeg1", "mpeg2-ts", "mpeg4-b-avi"])
def test_the_last_p_frame_keeps_its_vectors(kind: str, make_clip) -> None:
    with videokd.open(make_clip(**KINDS[kind])) as video:
        last = video.gops[-1]
        streams = video.read(gop=last.index, position=last.num_positions - 1, streams=("motion",))
        assert streams.valid.mean() > 0.5
        assert streams.motion.any()


def test_only_what_is_asked_for(make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        streams = video.read(gop=1, position=5, streams=("motion",))
        assert streams.iframe is None
        assert streams.residual is None
        assert repr(streams) == (
            "Streams(gop=1, position=5, iframe=None, frame=None, motion=int16[96, 128, 2], residual=None, valid=bool[96, 128])"
        )
        iframe = video.read(gop=1, position=5, streams=("iframe",)).iframe
        assert np.array_equal(iframe, video.read(gop=1, position=0, streams=("frame",)).frame)


def test_arrays_belong_to_the_caller(make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        first = video.read(gop=0, position=3, streams=("iframe", "motion", "residual", "frame"))
        before = digest(first)
        for array in (first.motion, first.residual, first.frame, first.valid):
            array[:] = 0
        assert digest(video.read(gop=0, position=3, streams=("iframe", "motion", "residual", "frame"))) == before


@pytest.mark.parametrize("kind", ["mpeg4", "h264-default", "full-range"])
@pytest.mark.parametrize("streams", [("iframe",), ("iframe", "motion", "residual", "frame")])
def test_a_gop_shares_one_read_only_iframe(kind: str, streams: tuple[str, ...], make_clip) -> None:
    path = make_clip(**KINDS.get(kind, KINDS["h264"] | {"pixel_format": "yuvj420p", "size": (150, 98)}))
    with videokd.open(path) as video:
        every = list(video.iterate(streams=streams))
        assert len({id(each.iframe) for each in every}) == len(video.gops)
        again = [video.read(gop=0, position=position, streams=streams).iframe for position in (1, 3)]
    assert again[0] is again[1]
    for each in every:
        with pytest.raises(ValueError, match="read-only"):
            each.iframe[0, 0] = 0
    own = every[0].iframe.copy()
    own[:] = 0
    assert every[1].iframe.any()
    if "frame" in streams:
        every[0].frame[:] = 0  # of position 0: the same picture, but the caller's own
        assert every[1].iframe.any()


def test_an_index_that_is_handed_in_costs_no_scan(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(**KINDS["mpeg4-b"])
    index = VideoIndex.from_json(index_video(path).to_json())
    assert index == index_video(path)
    with videokd.open(path) as video:
        expected = digest(video.read(gop=2, position=1))
    monkeypatch.setattr("videokd.codec.reader.open_indexed", None)
    with videokd.open(path, index=index) as video:
        assert digest(video.read(gop=2, position=1)) == expected


def test_the_rest_of_a_gop_is_passed_over(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int | None] = []
    feed = PictureDecoder.feed
    monkeypatch.setattr(
        PictureDecoder, "feed", lambda self, packet, number: (fed.append(number), feed(self, packet, number))[1]
    )
    with videokd.open(make_clip("mpeg4", num_frames=36)) as video:
        video.read(gop=0, position=2)
        video.read(gop=1, position=2)
        assert fed == [0, 1, 2, 12, 13, 14]
        video.read(gop=1, position=11)
        video.read(gop=2, position=0)
        assert fed == [0, 1, 2, *range(12, 25)]  # what comes next is decoded without seeking


def test_exact_says_when_chains_are_exact(make_clip) -> None:
    exact = {kind: index_video(make_clip(**KINDS[kind])).exact for kind in KINDS}
    assert {kind for kind, yes in exact.items() if not yes} == {
        "h264-default", "h264-pyramid", "h264-open-gop", "h264-mkv", "h264-ts",
    }  # fmt: skip


def test_every_real_clip(shared: Path) -> None:
    with open(shared / "clips" / "CLIPS.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 20
    for row in rows:
        index = index_video(shared / "clips" / row["file"])
        assert index.codec == row["codec"]
        assert (index.width, index.height) == (int(row["width"]), int(row["height"])), row["file"]
        assert index.num_frames == int(row["frames_decoded"]), row["file"]
        kinds = index.types.upper().replace("S", "P")
        counted = tuple(kinds.count(kind) for kind in "IPB")
        assert counted == (int(row["i_frames"]), int(row["p_frames"]), int(row["b_frames"])), row["file"]


def test_wrong_places_and_names(make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        with pytest.raises(videokd.ConfigError, match=r"gop=9 \(accepted: 0 to 2\)"):
            video.read(gop=9, position=0)
        with pytest.raises(videokd.ConfigError, match=r"position=12 of GOP 0 \(accepted: 0 to 11\)"):
            video.read(gop=0, position=12)
        with pytest.raises(videokd.ConfigError, match=r"streams: flow \(accepted: one or more of iframe"):
            video.read(gop=0, position=1, streams=("flow",))
        with pytest.raises(videokd.ConfigError, match=r"streams: nothing"):
            next(video.iterate(streams=()))


def test_a_codec_without_vectors(make_clip) -> None:
    with videokd.open(make_clip("mjpeg", container="avi", pixel_format="yuvj420p")) as video:
        assert video.read(gop=3, position=0, streams=("iframe",)).iframe.shape == (96, 128, 3)
        with pytest.raises(
            videokd.DecodeError, match=r"is mjpeg, which exports no motion vectors .* `videokd prepare folder`"
        ):
            video.read(gop=3, position=0)


def test_bad_files(tmp_path: Path, make_clip) -> None:
    empty, text, cut = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "cut.mp4"
    empty.touch()
    text.write_text("this is not a video\n" * 100)
    whole = make_clip("mpeg4").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path, message in (
        (tmp_path / "missing.mp4", "is not there"),
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (text, "is a text file"),
        (cut, "cannot be read as a video"),
    ):
        with pytest.raises(videokd.DecodeError, match=f"{path.name}.*{message}"):
            videokd.open(path)


def test_an_mp4_that_is_cut_short_behind_its_index(tmp_path: Path, make_clip) -> None:
    whole = make_clip("mpeg4", options=(("movflags", "faststart"),))
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        video = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.raises(videokd.DecodeError, match=r"cut\.mp4 is cut short"):
        videokd.open(cut)


@pytest.mark.parametrize(
    "place", [{"gop": 0, "position": 1.5}, {"gop": 0.0, "position": 1}, {"gop": "0", "position": 1}]
)
def test_places_that_are_not_whole_numbers_are_refused(make_clip, place: dict) -> None:
    with (
        videokd.open(make_clip("mpeg4")) as video,
        pytest.raises(videokd.ConfigError, match="accepted: a whole number"),
    ):
        video.read(**place)
