"""Cut-off files are refused alike by open and transcode, and whole files that look odd are read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import videokd
from videokd.bitstream.source import Source
from videokd.bitstream.stated_length import stated_bytes
from videokd.codec.indexing import index_video
from videokd.transcoding.transcode import Encoding, transcode

SMALL = Encoding(short_side=48)
#: Muxer, its options, codec: containers that tell wherever they are cut
TELLING = (
    ("mp4", {"movflags": "+faststart"}, "mpeg4"),
    ("mp4", {"movflags": "+faststart"}, "libx264"),
    ("mp4", {}, "mpeg4"),
    ("mp4", {"movflags": "frag_keyframe+empty_moov"}, "mpeg4"),
    ("mov", {"movflags": "+faststart"}, "mpeg4"),
    ("matroska", {}, "libx264"),
    ("webm", {}, "libvpx"),
    ("avi", {}, "mpeg4"),
    ("flv", {}, "flv"),
    ("asf", {}, "wmv2"),
    ("swf", {}, "flv"),
    ("mxf", {}, "mpeg2video"),
)
#: Those that tell only where they are cut inside one of their packets
HALF_TELLING = (
    ("matroska", {"live": "1"}, "mpeg4"),
    ("mpegts", {}, "libx264"),
    ("mpegts", {"mpegts_m2ts_mode": "1"}, "libx264"),
    ("mpeg", {}, "mpeg2video"),
    ("ogg", {}, "libvpx"),
)


def clip(path: Path, form: str, options: dict[str, str], codec: str, *, shade: int = 0, num_frames: int = 36) -> Path:
    """A clip with noise, so that its packets have some size."""
    rng = np.random.default_rng(shade)
    with av.open(str(path), "w", format=form, options=options) as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        base = rng.integers(0, 200, (96, 128, 3)).astype(np.uint8)
        for number in range(num_frames):
            picture = np.roll(base, number, 1) + rng.integers(0, 20, (96, 128, 3)).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def shown(path: Path) -> int:
    """Frames by the ffmpeg program, where it is; by PyAV otherwise."""
    try:
        done = subprocess.run(
            ["ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-vsync", "0", "-f", "framecrc", "-"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return sum(not line.startswith("#") for line in done.stdout.splitlines())
    except FileNotFoundError:
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            decoder = container.streams.video[0].codec_context
            return sum(len(decoder.decode(packet)) for packet in [*packets, None])


def both(target: Path) -> tuple[Callable[[Path], int], ...]:
    return (lambda path: index_video(path).num_frames, lambda path: transcode(path, target, SMALL).num_frames)


@pytest.mark.parametrize(("form", "options", "codec"), TELLING + HALF_TELLING)
def test_a_cut_inside_a_packet_is_refused(tmp_path: Path, form: str, options: dict[str, str], codec: str) -> None:
    whole = clip(tmp_path / "whole.bin", form, options, codec)
    data, path = whole.read_bytes(), tmp_path / "cut.bin"
    for read in both(tmp_path / "out.mp4"):
        assert read(whole) == 36
    for at in np.random.default_rng(0).integers(len(data) // 10, len(data) - 600, 6).tolist():
        path.write_bytes(data[: at - (at % 188 == 0)])
        for read in both(tmp_path / "cut.mp4"):
            with pytest.raises(videokd.DecodeError, match=r"cut\.bin"):
                read(path)
        assert not (tmp_path / "cut.mp4").exists()


@pytest.mark.parametrize(("form", "options", "codec"), TELLING)
def test_a_cut_between_packets_is_refused(tmp_path: Path, form: str, options: dict[str, str], codec: str) -> None:
    whole = clip(tmp_path / "whole.bin", form, options, codec)
    with av.open(str(whole)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size and packet.pos]
    path = tmp_path / "cut.bin"
    for at in places[5::9]:
        path.write_bytes(whole.read_bytes()[:at])
        for read in both(tmp_path / "cut.mp4"):
            with pytest.raises(videokd.DecodeError, match=r"cut\.bin"):
                read(path)


@pytest.mark.parametrize(
    ("form", "options", "codec"), [kind for kind in TELLING + HALF_TELLING if "mp4" not in kind[0]]
)
def test_bytes_after_the_end_do_no_harm(tmp_path: Path, form: str, options: dict[str, str], codec: str) -> None:
    """Some tools pad files with zeros; the file is whole."""
    whole = clip(tmp_path / "whole.bin", form, options, codec)
    padded = tmp_path / "padded.bin"
    padded.write_bytes(whole.read_bytes() + bytes(188 * 192))
    stated = stated_bytes(Source(padded))
    assert stated is None or stated <= whole.stat().st_size


def test_an_edit_list_that_ends_early(tmp_path: Path) -> None:
    """Phones trim so: all samples stay, and an edit list shows the first ones."""
    path = clip(tmp_path / "trim.mp4", "mp4", {}, "mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    duration = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (duration * 20 // 36).to_bytes(4, "big")
    path.write_bytes(data)
    assert shown(path) == 20
    for read in both(tmp_path / "out.mp4"):
        assert read(path) == 20


def test_an_empty_sample_is_skipped(tmp_path: Path) -> None:
    """The bytes of one sample are taken out, and its size in the table becomes 0."""
    path = clip(tmp_path / "empty.mp4", "mp4", {}, "mpeg4")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]
        at, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    del data[at : at + size]
    mdat = data.index(b"mdat") - 4
    data[mdat : mdat + 4] = (int.from_bytes(data[mdat : mdat + 4], "big") - size).to_bytes(4, "big")
    entry = data.index(b"stsz") + 16 + 4 * 20
    assert int.from_bytes(data[entry : entry + 4], "big") == size
    data[entry : entry + 4] = bytes(4)
    path.write_bytes(data)
    assert shown(path) == 35
    for read in both(tmp_path / "out.mp4"):
        assert read(path) == 35
    with videokd.open(path) as video:
        in_order = [streams.frame for streams in video.iterate(streams=("frame",))]
        assert len(in_order) == 35
        assert np.array_equal(video.read(gop=2, position=3, streams=("frame",)).frame, in_order[26])


TRANSPORT = [("libx264", {}), ("mpeg2video", {}), ("libx264", {"mpegts_m2ts_mode": "1"}), ("mpeg4", {})]


@pytest.mark.parametrize(("codec", "options"), TRANSPORT)
@pytest.mark.parametrize("same", [True, False])
def test_joined_transport_streams_are_read(tmp_path: Path, codec: str, options: dict[str, str], same: bool) -> None:
    parts = [clip(tmp_path / f"{n}.ts", "mpegts", options, codec, shade=0 if same else n) for n in range(3)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))  # the trap
    for read in both(tmp_path / "out.mp4"):
        assert read(path) == 3 * 36


@pytest.mark.parametrize("joined", [False, True])
def test_a_transport_stream_that_lost_a_packet_is_refused(tmp_path: Path, joined: bool) -> None:
    part = clip(tmp_path / "part.ts", "mpegts", {}, "libx264").read_bytes()
    data = part + part if joined else part
    rows = np.frombuffer(data, np.uint8).reshape(-1, 188)
    video = np.flatnonzero(((rows[:, 1] & 0x1F).astype(int) << 8 | rows[:, 2]) == 256)
    path = tmp_path / "lost.ts"
    for lost in video[len(video) // 3 : -1 : len(video) // 9]:  # without the last, nothing shows
        path.write_bytes(np.delete(rows, lost, 0).tobytes())
        for read in both(tmp_path / "out.mp4"):
            with pytest.raises(videokd.DecodeError, match=r"lost\.ts is cut short or damaged at packet \d+"):
                read(path)


def test_what_is_encrypted_is_called_so(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    cenc = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    mp4 = clip(tmp_path / "a.mp4", "mp4", cenc, "libx264")
    stream = clip(tmp_path / "a.ts", "mpegts", {}, "libx264")
    rows = np.frombuffer(stream.read_bytes(), np.uint8).reshape(-1, 188).copy()
    rows[((rows[:, 1] & 0x1F).astype(int) << 8 | rows[:, 2]) == 256, 3] |= 0x80  # transport_scrambling_control
    stream.write_bytes(rows.tobytes())
    matroska = clip(tmp_path / "a.mkv", "matroska", {}, "libx264")
    data = bytearray(matroska.read_bytes())
    at = data.index(b"\xec", data.index(b"\x11\x4d\x9b\x74"))  # a void element: room for the tracks' content encodings
    data[at + 20 : at + 38] = b"\x6d\x80\x8f\x62\x40\x8c\x50\x31\x81\x00\x50\x33\x81\x01\x50\x35\x80\x00"
    matroska.write_bytes(data)
    for path in (mp4, stream, matroska):
        for read in both(tmp_path / "out.mp4"):
            with pytest.raises(videokd.DecodeError, match=rf"a\{path.suffix} is encrypted .* Give a copy that is not"):
                read(path)
