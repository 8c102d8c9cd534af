"""What goes wrong in real files, one trap a test: each clip is made so that it has the trap, and checked that it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

import videokd
from videokd.bitstream import headers
from videokd.codec.indexing import index_video
from videokd.types import Streams

ALL = ("iframe", "motion", "residual", "frame")
X264 = "bframes=0:ref=1:weightp=0:scenecut=0:keyint=12:min-keyint=12"


def texture(num_frames: int, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """uint8 [T, H, W, 3]: a texture that moves by (3, 1) pixels a frame."""
    rng = np.random.default_rng(seed)
    plane = rng.integers(0, 256, (height // 8 + 12, width // 8 + 24, 3)).astype(np.float32)
    plane = plane.repeat(8, axis=0).repeat(8, axis=1)
    for axis in (0, 1):
        plane = (plane + np.roll(plane, 2, axis) + np.roll(plane, 4, axis)) / 3
    crops = [plane[t : t + height, 3 * t % 96 : 3 * t % 96 + width] for t in range(num_frames)]
    return np.stack(crops).astype(np.uint8)


def write(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    stamps: list[int] | None = None,
    context: dict[str, Any] | None = None,
) -> Path:
    given = options if options is not None else {"x264-params": X264} if codec == "libx264" else {}
    with av.open(str(path), "w", options=muxer or {}) as output:
        stream: Any = None
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = output.add_stream(codec, rate=25, options=given)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.thread_count = 1
                stream.codec_context.gop_size = 12
                if codec != "libx264":
                    stream.bit_rate = 2_000_000
                for name, value in (context or {}).items():
                    setattr(stream.codec_context, name, value)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if stamps is not None:
                frame.pts = stamps[number]
                frame.time_base = Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, *, drop_first: int = 0, filters: str | None = None) -> Path:
    """The same packets in another file, the first few left out, or passed through a bitstream filter."""
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream = given.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        context = BitStreamFilterContext(filters, stream) if filters else None
        for number, packet in enumerate(given.demux(stream)):
            flush = not packet.size
            if number < drop_first or (flush and context is None):
                continue
            for kept in context.filter(None if flush else packet) if context else (packet,):
                kept.stream = copy
                output.mux(kept)
    return target


def decoded(path: Path) -> list[Any]:
    """Every frame, with PyAV only."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return list(container.decode(stream))


def digest(streams: Streams) -> str:
    arrays = (streams.iframe, streams.frame, streams.motion, streams.residual, streams.valid)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays if a is not None)).hexdigest()


def check_reading(path: Path) -> list[Streams]:
    """Frames as PyAV gives them, any order as in order, and warped I-frame + residual = frame."""
    frames = decoded(path)
    with videokd.open(path) as video:
        in_order = list(video.iterate(streams=ALL))
        assert video.num_frames == len(frames)
        for streams in in_order:
            number = video.gops[streams.gop].frame_numbers[streams.position]
            assert np.array_equal(streams.frame, frames[number].to_ndarray(format="rgb24"))
            rows, columns = np.mgrid[: video.height, : video.width]
            warped = streams.iframe[rows - streams.motion[..., 1], columns - streams.motion[..., 0]]
            assert np.array_equal(warped.astype(int) + streams.residual, streams.frame)
    shuffled = list(in_order)
    np.random.default_rng(0).shuffle(shuffled)
    with videokd.open(path) as video:
        for streams in shuffled:
            again = video.read(gop=streams.gop, position=streams.position, streams=ALL)
            assert digest(again) == digest(streams), (streams.gop, streams.position)
    return in_order


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg2video", {"flags": "+ilme+ildct"}),
        ("mpeg4", {"flags": "+ilme+ildct"}),
        ("libx264", {"x264-params": f"{X264}:tff=1"}),
    ],
)
def test_interlaced_is_read_and_said_to_be_inexact(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    path = write(tmp_path / "interlaced.mkv", texture(20, 96, 128), codec=codec, options=options)
    index = index_video(path)
    assert index.inexact_because == ("pictures may be coded as two fields",)
    assert len(check_reading(path)) == 20


@pytest.mark.parametrize("size", [(98, 150), (50, 34), (17 * 2, 16)])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_sides_that_are_no_multiple_of_a_macroblock(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    path = write(tmp_path / "overhang.mp4", texture(14, *size), codec=codec)
    streams = check_reading(path)
    assert streams[5].motion.shape == (*size, 2)
    assert any(s.motion.any() for s in streams)


@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264", "yuv444p"), ("ffv1", "yuv420p"), ("mpeg4", "yuv420p")])
def test_odd_sides(tmp_path: Path, codec: str, pixel_format: str) -> None:
    path = write(tmp_path / "odd.mkv", texture(6, 51, 67), codec=codec, pixel_format=pixel_format)
    with videokd.open(path) as video:
        assert video.read(gop=0, position=0, streams=("frame",)).frame.shape == (51, 67, 3)
    if codec != "ffv1":
        check_reading(path)


@pytest.mark.parametrize("crop", [(16, 16, 0, 0), (6, 10, 2, 4), (0, 0, 8, 8)])
def test_vectors_count_from_the_corner_of_the_coded_picture_not_the_cropped_one(
    tmp_path: Path, crop: tuple[int, int, int, int]
) -> None:
    whole = write(tmp_path / "whole.h264", texture(14, 96, 128))
    left, top, right, bottom = crop
    spec = f"h264_metadata=crop_left={left}:crop_top={top}:crop_right={right}:crop_bottom={bottom}"
    cropped = remux(whole, tmp_path / "cropped.h264", filters=spec)
    check = ("motion", "frame")
    with videokd.open(whole) as a, videokd.open(cropped) as b:
        assert (b.width, b.height) == (128 - left - right, 96 - top - bottom)
        window = np.s_[top : top + b.height, left : left + b.width]
        for before, after in zip(
            a.iterate(streams=check, accumulate=False), b.iterate(streams=check, accumulate=False), strict=True
        ):
            assert np.array_equal(before.frame[window], after.frame)
            assert np.array_equal(before.motion[window][after.valid], after.motion[after.valid])
            assert after.valid.mean() > 0.8 * before.valid[window].mean()
    check_order_only(cropped)


def check_order_only(path: Path) -> None:
    with videokd.open(path) as video:
        in_order = {(s.gop, s.position): digest(s) for s in video.iterate(streams=ALL)}
    with videokd.open(path) as video:
        for gop, position in reversed(in_order):
            assert digest(video.read(gop=gop, position=position, streams=ALL)) == in_order[gop, position]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_file_is_read_as_it_is_coded(tmp_path: Path, degrees: int) -> None:
    path = write(tmp_path / "rotated.mp4", texture(14, 96, 128), codec="mpeg4")
    before = [digest(s) for s in check_reading(path)]
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data = path.read_bytes()
    identity = b"".join(v.to_bytes(4, "big", signed=True) for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    values = (cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    matrix = b"".join(v.to_bytes(4, "big", signed=True) for v in values)
    at = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    assert abs(decoded(path)[0].rotation) % 360 in (degrees, 360 - degrees)
    with videokd.open(path) as video:
        assert (video.width, video.height) == (128, 96)
        assert [digest(s) for s in video.iterate(streams=ALL)] == before


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_matrix_and_the_range_that_the_file_states(
    tmp_path: Path, matrix: str, full_range: bool
) -> None:
    """Planes of constant Y, Cb, Cr, and the RGB that ITU-R BT.601 and BT.709 give for them."""
    luma, blue, red = 120, 100, 170
    path = tmp_path / "colours.mp4"
    params = f"{X264}:colormatrix={matrix}:fullrange={'on' if full_range else 'off'}:qp=1"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        planes = np.concatenate([np.full((48, 64), luma), np.full((12, 64), blue), np.full((12, 64), red)]).astype(
            np.uint8
        )
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        output.mux(stream.encode(None))
    k_red, k_blue = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}[matrix]
    y, b, r = (
        (luma / 255, (blue - 128) / 255, (red - 128) / 255)
        if full_range
        else ((luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224)
    )
    rgb_red, rgb_blue = y + 2 * (1 - k_red) * r, y + 2 * (1 - k_blue) * b
    rgb_green = (y - k_red * rgb_red - k_blue * rgb_blue) / (1 - k_red - k_blue)
    expected = np.round(255 * np.clip([rgb_red, rgb_green, rgb_blue], 0, 1))
    with videokd.open(path) as video:
        streams = video.read(gop=0, position=2, streams=ALL)
    for picture in (streams.iframe, streams.frame):
        assert np.abs(picture[24, 32].astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    "pixel_format", ["yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuvj420p"]
)
def test_other_pixel_formats(tmp_path: Path, pixel_format: str) -> None:
    pictures = texture(14, 96, 128)
    path = write(tmp_path / "format.mp4", pictures, pixel_format=pixel_format)
    streams = check_reading(path)
    # FFmpeg's H.264 decoder gives grey as 4:2:0 with flat chroma
    assert decoded(path)[0].format.name == {"gray": "yuv420p"}.get(pixel_format, pixel_format)
    if pixel_format != "gray":
        assert np.abs(streams[0].frame.astype(int) - pictures[0]).mean() < 12


def test_variable_frame_rate_gives_true_times(tmp_path: Path) -> None:
    stamps = list(np.cumsum([1, 1, 5, 1, 2] * 6))
    path = write(tmp_path / "variable.mkv", texture(30, 96, 128), codec="mpeg4", stamps=stamps)
    check_reading(path)
    times = [frame.time for frame in decoded(path)]
    with videokd.open(path) as video:
        assert [gop.start_seconds for gop in video.gops] == pytest.approx([times[n] - times[0] for n in (0, 12, 24)])


@pytest.mark.parametrize("suffix", ["m4v", "avi", "ts"])
def test_a_first_frame_that_is_no_keyframe(tmp_path: Path, suffix: str) -> None:
    codec = "libx264" if suffix == "ts" else "mpeg4"
    whole = write(tmp_path / f"whole.{suffix}", texture(30, 96, 128), codec=codec)
    late = remux(whole, tmp_path / f"late.{suffix}", drop_first=1)
    frames = decoded(late)
    with videokd.open(late) as video:
        assert video.num_frames == len(frames)
        for gop in video.gops:
            for position, number in enumerate(gop.frame_numbers):
                picture = video.read(gop=gop.index, position=position, streams=("frame",)).frame
                assert np.array_equal(picture, frames[number].to_ndarray(format="rgb24"))
        assert video.gops[-1].num_positions == 6
    check_order_only(late)


def test_files_with_audio_and_subtitles(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.mkv", texture(30, 96, 128), codec="mpeg4")
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,100 --> 00:00:00,900\nhello\n\n2\n00:00:01,000 --> 00:00:01,100\nworld\n")
    path = tmp_path / "tracks.mkv"
    with av.open(str(plain)) as given, av.open(str(words)) as text, av.open(str(path), "w") as output:
        sound: Any = output.add_stream("aac", rate=16000)
        picture: Any = output.add_stream_from_template(given.streams.video[0])
        subtitles: Any = output.add_stream_from_template(text.streams.subtitles[0])
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        for packet in text.demux(text.streams.subtitles[0]):
            if packet.size:
                packet.stream = subtitles
                output.mux(packet)
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = picture
                output.mux(packet)
                samples.pts = None
                output.mux(sound.encode(samples))
        output.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "subtitle", "video"]
    with videokd.open(plain) as alone, videokd.open(path) as video:
        assert [digest(s) for s in video.iterate(streams=ALL)] == [digest(s) for s in alone.iterate(streams=ALL)]
    check_order_only(path)


def test_an_edit_list_that_starts_inside_a_gop(tmp_path: Path) -> None:
    path = write(tmp_path / "edited.mp4", texture(36, 96, 128), codec="mpeg4", muxer={"use_editlist": "1"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert int.from_bytes(data[at + 4 : at + 8], "big") == 1
    with av.open(str(path)) as container:
        step = int(1 / (25 * container.streams.video[0].time_base))
    data[at + 12 : at + 16] = (5 * step).to_bytes(4, "big")  # media time: five frames are decoded but not shown
    path.write_bytes(data)
    frames = decoded(path)
    assert len(frames) == 31
    with videokd.open(path) as video:
        assert video.num_frames == 31
        assert [gop.num_positions for gop in video.gops][-2:] == [12, 12]
        for streams in video.iterate(streams=ALL):
            number = video.gops[streams.gop].frame_numbers[streams.position]
            assert np.array_equal(streams.frame, frames[number].to_ndarray(format="rgb24"))
    check_order_only(path)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_fragmented_mp4(tmp_path: Path, b_frames: int) -> None:
    path = write(
        tmp_path / "fragments.mp4", texture(30, 96, 128), codec="mpeg4",
        muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"}, context={"max_b_frames": b_frames},
    )  # fmt: skip
    assert path.read_bytes().count(b"moof") >= 3
    check_reading(path)


def test_i_frames_that_are_no_keyframes(tmp_path: Path) -> None:
    looks = [np.random.default_rng(seed).permutation(256).astype(np.uint8) for seed in (0, 1)]
    scenes = np.concatenate([looks[n % 2][texture(9, 96, 128, seed=n % 2)] for n in range(4)])
    params = "bframes=2:ref=4:keyint=250:min-keyint=25:scenecut=80"
    path = write(tmp_path / "cuts.mp4", scenes, options={"x264-params": params})
    index = index_video(path)
    assert index.types.count("I") == 4
    assert [key[0] for key in index.keyframes] == [0, 27]
    check_reading(path)
    with videokd.open(path) as video:
        picture = video.read(gop=3, position=0, streams=("iframe",)).iframe
        assert np.array_equal(picture, video.read(gop=3, position=4, streams=("iframe",)).iframe)


def test_a_cut_inside_a_gop_is_intra_and_invalid(tmp_path: Path) -> None:
    scenes = np.concatenate([texture(6, 96, 128, seed=seed) for seed in (0, 1)])
    path = write(tmp_path / "cut.mp4", scenes, options={"x264-params": X264})
    with videokd.open(path) as video:
        valid = [s.valid.mean() for s in video.iterate(streams=("motion",), accumulate=False)]
    assert valid[6] < 0.5
    assert min(valid[1:6]) > 0.5


def test_the_last_vectors_are_those_of_the_same_file_with_a_packet_appended(tmp_path: Path) -> None:
    """The trap: MPEG-1/2/4 put out their last P-frame, held back for B-frames, without its vectors."""
    for codec, suffix in (("mpeg4", "avi"), ("mpeg2video", "ts"), ("mpeg1video", "mpg")):
        context = {"max_b_frames": 2}
        path = write(tmp_path / f"flush.{suffix}", texture(10, 96, 128), codec=codec, context=context)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.options = {"flags2": "+export_mvs"}
            packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
            frames = [f for data in (*packets, packets[0]) for f in stream.codec_context.decode(av.Packet(data))]
        last = [frame for frame in frames if int(frame.pict_type) == 2][-1]
        expected = last.side_data.get("MOTION_VECTORS").to_ndarray()
        with videokd.open(path) as video:
            gop = video.gops[-1]
            given = video.read(gop=gop.index, position=gop.num_positions - 1, streams=("motion",), accumulate=False)
        for vector in expected:
            x, y = int(vector["dst_x"]), int(vector["dst_y"])
            moved = (vector["dst_x"] - vector["src_x"], vector["dst_y"] - vector["src_y"])
            if 16 < x < 112 and 16 < y < 80:
                assert tuple(given.motion[y, x]) == moved, codec


def test_global_motion_is_said_to_be_inexact() -> None:
    assert headers.Sequence(global_motion=True).inexact_because == ("global motion compensation has no vectors",)


def test_a_packed_stream_counts_its_frames(shared: Path) -> None:
    path = shared / "clips" / "TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    index = index_video(path)
    assert "-" in index.types
    assert index.num_frames == len(decoded(path)) == 48
    check_reading(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "m4v", "mov", "nut"])
def test_every_container_gives_the_same(tmp_path: Path, suffix: str) -> None:
    pictures = texture(30, 96, 128)
    expected = [digest(s) for s in check_reading(write(tmp_path / "expected.mp4", pictures, codec="mpeg4"))]
    path = write(tmp_path / f"other.{suffix}", pictures, codec="mpeg4")
    assert [digest(s) for s in check_reading(path)] == expected
