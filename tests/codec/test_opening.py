"""What is opened: one file by its name, in a container format of videos, and one of its tracks, alike for every reader."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

import videokd
from videokd.codec import rgb
from videokd.codec.file_info import read_file_info
from videokd.codec.index import Limits
from videokd.codec.opening import CONTAINERS, open_container
from videokd.errors import NeedsTranscoding
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode

PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{other}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {other}\n",
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
    "mpd": '<?xml version="1.0"?>\n<MPD type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "imf": '<?xml version="1.0"?>\n<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>',
    "pls": "[playlist]\nFile1={other}\n",
    "asx": '<asx version="3.0"><entry><ref href="{other}"/></entry></asx>',
}


def readers(target: Path) -> dict[str, Callable[[Path], Any]]:
    """Every way by which a file is opened."""
    return {
        "open": videokd.open,
        "transcode": lambda path: transcode(path, target),
        "rgb": lambda path: rgb.read_rgb(path, [0]),
    }


@pytest.mark.parametrize("suffix", ["own", "mp4", "avi", "png"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_no_playlist_opens_another_file(tmp_path: Path, make_clip, kind: str, suffix: str) -> None:
    other = tmp_path / "other.ts"
    other.write_bytes(make_clip("libx264", container="ts").read_bytes())
    path = tmp_path / f"list.{kind if suffix == 'own' else suffix}"
    path.write_bytes(PLAYLISTS[kind].format(other=other.name).encode())
    if kind in ("m3u8", "ffconcat") and suffix == "own":  # FFmpeg by itself would
        with av.open(str(path)) as container:
            assert container.streams.video
    for name, read in readers(tmp_path / "out.mp4").items():
        with pytest.raises(videokd.DecodeError, match=r"list\.\w+ is a playlist.*which names other files"):
            read(path)
        assert not (tmp_path / "out.mp4").exists(), name


def test_a_playlist_that_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "self.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {path.name}\n")
    with pytest.raises(videokd.DecodeError, match="is a playlist"):
        videokd.open(path)


@pytest.mark.parametrize(
    "name", ["concat:a.ts|b.ts", "http:", "file:clip.ts", "-", "subfile,,start,0,end,9,,:a.ts", "a%03d.ts", "pipe:0"]
)
def test_a_path_is_a_file_name_and_nothing_else(
    tmp_path: Path, make_clip, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_clip("libx264", container="ts").read_bytes()
    for other in ("a.ts", "b.ts", "clip.ts", "a001.ts"):
        Path(other).write_bytes(data)
    for read in readers(tmp_path / "out.mp4").values():
        with pytest.raises(videokd.DecodeError, match="is not there"):
            read(Path(name))
    Path(name).write_bytes(make_clip("mpeg4", container="avi", num_frames=7).read_bytes())
    with videokd.open(name) as video:
        assert (video.codec, video.num_frames) == ("mpeg4", 7)
    assert transcode(name, tmp_path / "out.mp4").num_frames == 7


def test_strange_names(tmp_path: Path, make_clip) -> None:
    data = make_clip("mpeg4").read_bytes()
    for name in (
        os.fsdecode(b"gr\xfc\xdfe-\xff.mp4"),
        "a" * 251 + ".mp4",
        "new\nline.mp4",
        "日本語.mp4",
        "no-suffix",
        ".hidden",
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with videokd.open(path) as video:
            assert video.num_frames == 30
        assert transcode(path, tmp_path / "out.mp4").num_frames == 30
        assert rgb.read_rgb(path, [3]).shape == (1, 96, 128, 3)
    for name in ("b" * 256 + ".mp4", "zero\0byte.mp4"):
        for read in readers(tmp_path / "other.mp4").values():
            with pytest.raises(videokd.DecodeError, match="cannot be opened|is not there"):
                read(tmp_path / name)


def jpeg() -> bytes:
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*codec.encode(picture), *codec.encode(None)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("picture.jpg", "is a picture"),
        ("picture.mp4", "is a picture"),
        ("text.txt", "is a text file"),
        ("text.mp4", "is a text file"),
        ("clips.zip", "is an archive.*Unpack it"),
        ("clips.mp4", "is an archive.*Unpack it"),
        ("sound.mp3", "is audio without pictures"),
        ("paper.pdf", "is a document"),
        ("noise.mp4", "cannot be read as a video|is not in a container format"),
        ("empty.mp4", "is empty"),
        ("folder.mp4", "is a directory.*Name one of the files in it"),
    ],
)
def test_what_is_not_a_video_is_named(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    if name == "folder.mp4":
        path.mkdir()
    elif name.startswith("clips"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.mp4", b"x")
    else:
        kinds = {"picture": jpeg(), "text": b"no video\n" * 99, "sound": b"ID3\4" + bytes(999), "paper": b"%PDF-1.7\n"}
        kinds |= {"noise": np.random.default_rng(0).bytes(5000), "empty": b""}
        path.write_bytes(kinds[path.stem])
    for read in readers(tmp_path / "out.mp4").values():
        with pytest.raises(videokd.DecodeError, match=f"{path.name} ({message})"):
            read(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to become a user who may not read")
def test_a_file_that_may_not_be_read(tmp_path: Path, make_clip) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(make_clip("mpeg4").read_bytes())
    path.chmod(0)
    program = (
        "import os, sys\nfrom videokd.codec.opening import check_source\nos.seteuid(65534)\n"
        "try: check_source('secret.mp4')\nexcept Exception as error: print(type(error).__name__, error)"
    )
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("DecodeError secret.mp4 cannot be opened: Permission denied"), done.stderr


MUXERS = (
    *(("mpeg4", name) for name in ("3gp", "avi", "ipod", "ismv", "m4v", "matroska", "mov", "mp4", "nut", "wtv")),
    *(("mpeg2video", name) for name in ("dvd", "mpeg", "mpeg2video", "mpegts", "mxf", "svcd", "vob")),
    *(("libvpx", name) for name in ("webm", "ivf", "ogg")),
    *(
        ("libx264", "h264"),
        ("libx264", "f4v"),
        ("libx265", "hevc"),
        ("libsvtav1", "obu"),
        ("wmv2", "asf"),
        ("rv10", "rm"),
    ),
    *(("flv", "flv"), ("flv", "swf"), ("h263", "h263"), ("h261", "h261"), ("dvvideo", "dv"), ("mjpeg", "mjpeg")),
    *(("gif", "gif"), ("apng", "apng"), ("wrapped_avframe", "yuv4mpegpipe")),
)


@pytest.mark.parametrize(("codec", "form"), MUXERS)
def test_every_container_that_ffmpeg_writes_for_video_is_accepted(tmp_path: Path, codec: str, form: str) -> None:
    path = tmp_path / "clip.mkv"  # the name tells nothing
    try:
        with av.open(str(path), "w", format=form) as output:
            stream: Any = output.add_stream(codec, rate=25)
            stream.width, stream.height = (720, 576) if codec == "dvvideo" else (352, 288)
            stream.pix_fmt = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            for shade in range(4):
                picture = np.full((stream.height, stream.width, 3), 20 * shade, np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode(None))
        with av.open(str(path)) as container:
            assert container.streams.video
    except (av.FFmpegError, ValueError, OSError, AssertionError) as error:
        pytest.skip(f"this FFmpeg does not write and read {codec} in {form}: {error}")
    container, track = open_container(path)
    with container:
        assert len(list(container.decode(track))) >= 3


def test_formats_that_open_other_files_are_not_on_the_list() -> None:
    assert not {
        "hls",
        "dash",
        "imf",
        "concat",
        "sdp",
        "rtsp",
        "image2",
        "vobsub",
        "mlv",
        "avisynth",
        "lavfi",
        "tty",
    } & set(CONTAINERS)


def test_a_cut_inside_a_gop_shows_no_i_frame_and_is_transcoded(tmp_path: Path, make_clip) -> None:
    """A cut by `-c copy` keeps the pictures before it for decoding, and an edit list hides them, the I-frame among them."""
    whole = make_clip("libx264", gop=250, num_frames=40)
    path = tmp_path / "cut.mp4"
    data = bytearray(whole.read_bytes())
    at = data.index(b"elst") + 4
    with av.open(str(whole)) as container:
        step = int(1 / (25 * container.streams.video[0].time_base))
    data[at + 12 : at + 16] = (int.from_bytes(data[at + 12 : at + 16], "big") + 20 * step).to_bytes(4, "big")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        shown = [int(frame.pict_type) for frame in container.decode(video=0)]
    assert 10 < len(shown) <= 20
    assert 1 not in shown
    with pytest.raises(NeedsTranscoding, match=r"cut\.mp4 shows no I-frame.*cut inside a GOP.*videokd prepare folder"):
        videokd.open(path)
    assert transcode(path, tmp_path / "out.mp4").num_frames == len(shown)


def test_intra_refresh_joined_late_shows_no_i_frame_and_is_transcoded(tmp_path: Path, make_clip) -> None:
    refresh = (("x264-params", "intra-refresh=1:keyint=12:bframes=0:ref=1:scenecut=0"),)
    whole, late = make_clip("libx264", container="ts", options=refresh, num_frames=60), tmp_path / "late.ts"
    with av.open(str(whole)) as given, av.open(str(late), "w") as output:
        copy: Any = output.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if number > 17 and packet.size:
                packet.stream = copy
                output.mux(packet)
    with pytest.raises(NeedsTranscoding, match=r"late\.ts shows no I-frame"):
        videokd.open(late)
    assert transcode(late, tmp_path / "out.mp4").num_frames > 20


def test_files_that_only_transcoding_can_read_have_their_own_error(tmp_path: Path, make_clip) -> None:
    sizes = [make_clip("libx264", container="h264", size=size) for size in ((128, 96), (64, 48))]
    changes = tmp_path / "changes.h264"
    changes.write_bytes(b"".join(path.read_bytes() for path in sizes))
    with pytest.raises(NeedsTranscoding, match=r"changes\.h264: frame \d+ is \d+×\d+"), videokd.open(changes) as video:
        list(video.iterate())
    with (
        videokd.open(make_clip("mjpeg", container="avi", pixel_format="yuvj420p")) as video,
        pytest.raises(NeedsTranscoding, match="is mjpeg, which exports no motion vectors"),
    ):
        video.read(gop=0, position=0)
    with pytest.raises(NeedsTranscoding, match="a GOP of 12 frames"):
        videokd.open(make_clip("mpeg4"), limits=Limits(gop_frames=11))


def in_another_file(data: bytearray, name: str) -> bytes:
    """An MP4 whose samples are in another one: an alias in its data reference (QuickTime File Format, "dref"), and an empty mdat."""
    entry = data.index(b"url \0\0\0\1") - 4
    text = b":" + name.encode()
    alias = bytes(50) + bytes([len(name)]) + name.encode().ljust(63, b"\0") + bytes(16)
    alias += (
        b"\0\1\0\1"
        + bytes(16)
        + b"\0\2"
        + len(text).to_bytes(2, "big")
        + text
        + bytes(len(text) % 2)
        + b"\xff\xff\0\0"
        + bytes(20)
    )
    box = (12 + len(alias)).to_bytes(4, "big") + b"alis" + bytes(4) + alias
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(kind) - 4
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(box) - 12).to_bytes(4, "big")
    data[entry : entry + 12] = box
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[begin:end] = bytes(end - begin)
    return bytes(data)


def test_a_movie_whose_samples_are_in_another_file(tmp_path: Path, make_clip) -> None:
    whole = make_clip("mpeg4", container="mov")
    (tmp_path / "other.mov").write_bytes(whole.read_bytes())
    path = tmp_path / "alias.mov"
    path.write_bytes(in_another_file(bytearray(whole.read_bytes()), "other.mov"))
    with av.open(str(path), options={"enable_drefs": "1"}) as container:  # FFmpeg would, if it were asked to
        assert len(list(container.decode(video=0))) == 30
    for name in ("open", "transcode", "rgb"):
        with pytest.raises(videokd.DecodeError, match=r"alias\.mov holds none of the 30 packets.*or in another file"):
            readers(tmp_path / "out.mp4")[name](path)


def tracks(
    path: Path, *sizes: tuple[int, int], cover: int | None = None, options: dict[str, str] | None = None
) -> Path:
    """A file of several video tracks, each in a shade of its own; the `cover`-th is one picture that is flagged as a cover."""
    with av.open(str(path), "w", options=options or {}) as output:
        streams: list[Any] = []
        for number, (width, height) in enumerate(sizes):
            is_cover = number == cover
            stream: Any = output.add_stream("mjpeg" if is_cover else "mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p" if is_cover else "yuv420p"
            if is_cover:
                stream.disposition = Disposition.attached_pic
            streams.append(stream)
        rng = np.random.default_rng(0)
        for frame in range(20):
            for number, stream in enumerate(streams):
                if number != cover or frame == 0:
                    noise = rng.integers(0, 255, (stream.height, stream.width, 3)).astype(np.uint8)
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        for stream in streams:
            output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "nut"])
@pytest.mark.parametrize("sizes", [((64, 48), (128, 96)), ((128, 96), (64, 48)), ((64, 64), (48, 48), (96, 96))])
def test_every_reader_takes_the_same_video_track(
    tmp_path: Path, suffix: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    path = tracks(tmp_path / f"tracks.{suffix}", *sizes)
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        assert best is not None
        size = best.codec_context.width, best.codec_context.height
    with videokd.open(path) as video:
        assert (video.width, video.height) == size
        first = video.read(gop=0, position=0, streams=("frame",)).frame
    assert np.array_equal(rgb.read_rgb(path, [0])[0], first)
    assert len(read_file_info(path).other_tracks) == len(sizes) - 1
    transcode(path, tmp_path / "out.mp4", Encoding(short_side=min(size), quality=1))
    with videokd.open(tmp_path / "out.mp4") as video:
        assert (video.width, video.height) == size
        again = video.read(gop=0, position=0, streams=("frame",)).frame
    assert np.abs(again.astype(int) - first).mean() < 25  # the noise of another track would be 85 away


@pytest.mark.parametrize("cover", [0, 1])
def test_a_cover_is_no_video(tmp_path: Path, cover: int) -> None:
    sizes = [(48, 32), (320, 240)] if cover else [(320, 240), (48, 32)]
    path = tracks(tmp_path / "cover.mp4", *sizes, cover=cover)
    with av.open(str(path)) as container:
        assert sum(bool(stream.disposition & Disposition.attached_pic) for stream in container.streams.video) == 1
    with videokd.open(path) as video:
        assert (video.codec, video.width, video.num_frames) == ("mpeg4", 48, 20)
    assert transcode(path, tmp_path / "out.mp4", Encoding(short_side=32)).num_frames == 20
    assert rgb.read_rgb(path, [19]).shape == (1, 32, 48, 3)
    only = tmp_path / "only.mp4"
    with av.open(str(path)) as given, av.open(str(only), "w") as output:
        source = next(s for s in given.streams.video if s.disposition & Disposition.attached_pic)
        copy: Any = output.add_stream_from_template(source)
        copy.disposition = Disposition.attached_pic
        sound: Any = output.add_stream("aac", rate=16000)
        for packet in given.demux(source):
            if packet.size:
                packet.stream = copy
                output.mux(packet)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        output.mux(sound.encode(samples))
        output.mux(sound.encode(None))
    for name in ("open", "transcode", "rgb"):
        with pytest.raises(
            videokd.DecodeError, match=r"only\.mp4 has no video track .* it holds a cover picture, audio|it holds audio"
        ):
            readers(tmp_path / "out.mp4")[name](only)


def test_sound_that_begins_late_hides_no_picture(tmp_path: Path, make_clip) -> None:
    whole = make_clip("flv", container="flv", num_frames=300)
    sound = bytes([0x2F]) + bytes(400)  # a tag of MP3, as FLV has it (Adobe, Video File Format 10.1, E.4)
    tag = b"\x08" + len(sound).to_bytes(3, "big") + bytes(7) + sound + (len(sound) + 11).to_bytes(4, "big")
    late = tmp_path / "late.flv"
    late.write_bytes(whole.read_bytes() + 3 * tag)
    with av.open(str(late)) as container, pytest.raises(IndexError):  # PyAV by itself
        list(container.demux(container.streams.video[0]))
    with videokd.open(whole) as video, videokd.open(late) as other:
        assert other.num_frames == video.num_frames == 300
        for one, another in zip(video.iterate(), other.iterate(), strict=True):
            assert np.array_equal(one.residual, another.residual)
    assert transcode(late, tmp_path / "out.mp4", Encoding()).num_written == 300
