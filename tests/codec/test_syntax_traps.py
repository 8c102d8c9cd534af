"""Traps in the syntax of the codecs: packed and global-motion MPEG-4, open GOPs, four vectors a block, codecs without vectors."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import videokd
from tests.codec.test_oracles import check_last_vectors
from tests.codec.test_traps import ALL, check_order_only, check_reading, decoded, digest, texture, write
from videokd.bitstream import headers
from videokd.codec.indexing import index_video

SIZE = (96, 128)


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def write_packets(template: Path, target: Path, packets: Sequence[bytes]) -> Path:
    """Packets as they are, one a frame, in a file with the template's headers."""
    with av.open(str(template)) as given, av.open(str(target), "w") as output:
        stream: Any = output.add_stream_from_template(given.streams.video[0])
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.dts, packet.time_base, packet.stream = number, Fraction(1, 25), stream
            output.mux(packet)
    return target


def packed(source: Path, target: Path) -> Path:
    """The same MPEG-4 as XviD and DivX "pack" it: a P- and a B-frame in one packet, then a picture that is not coded."""
    first, *rest = packets_of(source)
    sequence = headers.mpeg4_sequence(b"", first)
    assert sequence is not None
    # vop_coding_type P, no whole seconds, marker, vop_time_increment, marker, vop_coded 0, and stuffing
    bits = "01" + "0" + "1" + "0" * sequence.time_bits + "1" + "0"
    bits += "0" + "1" * (-len(bits) - 1 & 7)
    not_coded = b"\x00\x00\x01\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    # Like XviD's, the first packet begins with its video object: at a visual_object_sequence FFmpeg drops what it has kept
    first = first[first.index(b"\x00\x00\x01\x00") :]
    at = first.index(b"\x00\x00\x01\xb6")
    packets = [first[:at] + b"\x00\x00\x01\xb2DivX503b1393p" + first[at:]]
    types = [headers.mpeg4_picture(data, sequence.time_bits) for data in rest]
    for number, (data, kind) in enumerate(zip(rest, types, strict=True)):
        if kind == "b":
            packets += [packets.pop() + data, not_coded]
        else:
            assert number + 1 == len(rest) or kind == "I" or types[number + 1] in ("b", "I", "P")
            packets.append(data)
    return write_packets(source, target, packets)


def in_pairs(path: Path, *, num_frames: int) -> Path:
    return write(path, texture(num_frames, *SIZE), codec="mpeg4", context={"max_b_frames": 1, "gop_size": 10})


def test_packed_mpeg4_gives_what_the_same_stream_gives_unpacked(tmp_path: Path) -> None:
    plain = in_pairs(tmp_path / "plain.avi", num_frames=19)
    path = packed(plain, tmp_path / "packed.avi")
    index = index_video(path)
    assert any(data.count(b"\x00\x00\x01\xb6") == 2 for data in packets_of(path))
    assert index.num_frames == len(decoded(path)) == 19
    given, expected = check_reading(path), check_reading(plain)
    assert [digest(streams) for streams in given] == [digest(streams) for streams in expected]


def test_packed_mpeg4_that_ends_with_two_pictures_keeps_its_last_vectors(tmp_path: Path) -> None:
    """The trap: the decoder takes what is fed after the last packet as the sign to decode its second picture, and drops it."""
    plain = in_pairs(tmp_path / "plain.avi", num_frames=19)
    whole = packed(plain, tmp_path / "whole.avi")
    packets = packets_of(whole)
    assert packets[-2].count(b"\x00\x00\x01\xb6") == 2
    path = write_packets(whole, tmp_path / "packed.avi", packets[:-1])
    assert len(decoded(path)) == 18
    assert check_last_vectors(path)
    given, expected = check_reading(path), check_reading(plain)
    assert [digest(streams) for streams in given] == [digest(streams) for streams in expected]


def test_global_motion_is_read_and_said_to_be_inexact(tmp_path: Path) -> None:
    """The trap: S-VOPs warp whole pictures, and FFmpeg exports no vectors for what they warp."""
    ffmpeg = shutil.which("ffmpeg")
    encoders = (
        subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True)
        if ffmpeg
        else None
    )
    if encoders is None or "libxvid" not in encoders.stdout:
        pytest.skip("no ffmpeg with libxvid installed, which can encode global motion")
    path = tmp_path / "global.avi"
    zoom = "testsrc2=size=128x96:rate=25,zoompan=z='1+0.02*on':d=1:s=128x96"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", zoom, "-frames:v", "24", "-c:v", "libxvid", "-gmc", "1"]
    subprocess.run([*command, "-q:v", "3", "-g", "12", str(path)], check=True)
    index = index_video(path)
    assert "S" in index.types
    assert index.inexact_because == ("global motion compensation has no vectors",)
    assert len(check_reading(path)) == 24


def test_open_gops_have_frames_shown_before_their_i_frame(tmp_path: Path) -> None:
    """The trap: seeking to the I-frame and decoding on loses the B-frames before it, or shows them broken."""
    params = "bframes=3:open-gop=1:keyint=10:min-keyint=1:b-adapt=0"
    for path in (
        write(tmp_path / "open.mp4", texture(40, *SIZE), options={"x264-params": params}),
        write(
            tmp_path / "open.ts", texture(40, *SIZE), codec="mpeg2video", context={"max_b_frames": 2, "gop_size": 10}
        ),
    ):
        index = index_video(path)
        leading = 0
        for start in (packet for packet, kind in enumerate(index.types) if kind == "I"):
            after = [
                packet for packet in range(start + 1, len(index.types)) if index.display[packet] < index.display[start]
            ]
            leading += len(after)
            assert {index.types[packet].upper() for packet in after} <= {"B"}
        assert leading > 2
        check_reading(path)


@pytest.mark.parametrize(
    ("codec", "options", "sides"),
    [
        ("mpeg4", {"flags": "+mv4", "mbd": "rd"}, {8, 16}),
        (
            "libx264",
            {"x264-params": "bframes=0:ref=1:weightp=0:keyint=12:partitions=all:subme=9:me=umh"},
            {8, 16},
        ),  # FFmpeg exports one vector of an 8×8 block that is split on
    ],
)
def test_blocks_of_every_size(tmp_path: Path, codec: str, options: dict[str, str], sides: set[int]) -> None:
    rng = np.random.default_rng(0)
    # Small patches that move apart, so that one vector a macroblock does not do
    pictures = texture(14, *SIZE)
    steps = rng.integers(-4, 5, (SIZE[0] // 6, SIZE[1] // 6, 2))
    for t, picture in enumerate(pictures):
        for (row, column), (x, y) in zip(np.ndindex(steps.shape[:2]), steps.reshape(-1, 2), strict=True):
            top, left = 6 * row, 6 * column
            patch = pictures[0][top : top + 6, left : left + 6]
            picture[top : top + 6, left : left + 6] = np.roll(patch, (t * y, t * x), (0, 1))
    path = write(tmp_path / "blocks.mp4", pictures, codec=codec, options=options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"flags2": "+export_mvs"}
        stream.thread_type = "NONE"
        found = {
            side
            for frame in container.decode(stream)
            for vector in frame.side_data.get("MOTION_VECTORS") or ()
            for side in (vector.w, vector.h)
        }
    assert found == sides
    check_reading(path)


@pytest.mark.parametrize(
    ("codec", "name", "container"),
    [
        ("libx265", "hevc", "mp4"),
        ("libvpx", "vp8", "mkv"),
        ("libvpx-vp9", "vp9", "mkv"),
        ("libsvtav1", "av1", "mp4"),
        ("mjpeg", "mjpeg", "avi"),
        ("ffv1", "ffv1", "mkv"),
    ],
)
def test_codecs_without_vectors_are_refused_not_read_as_motionless(
    tmp_path: Path, codec: str, name: str, container: str
) -> None:
    """The trap: FFmpeg exports no vectors for these, silently, as if nothing moved."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / f"clip.{container}", texture(14, *SIZE), codec=codec, pixel_format=pixel_format, options={})
    frames = decoded(path)
    with videokd.open(path) as video:
        assert video.num_frames == len(frames) == 14
        refused = (
            rf"is (lib)?\w*{name}\w*, which exports no motion vectors \(accepted: mpeg4, .*`videokd prepare folder`"
        )
        for streams in (("motion",), ("residual",), ALL):
            with pytest.raises(videokd.DecodeError, match=refused):
                video.read(gop=0, position=0, streams=streams)
            with pytest.raises(videokd.DecodeError, match=refused):
                next(video.iterate(streams=streams))
        for streams in video.iterate(streams=("iframe", "frame")):
            gop = video.gops[streams.gop]
            for picture, position in ((streams.frame, streams.position), (streams.iframe, 0)):
                assert np.array_equal(picture, frames[gop.frame_numbers[position]].to_ndarray(format="rgb24"))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mpeg2video"])
def test_residuals_and_motion_against_the_position_before(tmp_path: Path, codec: str) -> None:
    """accumulate=False: residual = I_t(p) − I_{t−1}(p − d_t(p)), position by position."""
    path = write(tmp_path / "clip.mkv", texture(20, *SIZE), codec=codec, context={"max_b_frames": 0})
    with videokd.open(path) as video:
        before = None
        for streams in video.iterate(streams=ALL, accumulate=False):
            if streams.position == 0:
                assert not streams.motion.any()
                assert not streams.residual.any()
                assert streams.valid.all()
            else:
                rows, columns = np.mgrid[: video.height, : video.width]
                moved = before[rows - streams.motion[..., 1], columns - streams.motion[..., 0]].astype(int)
                assert np.array_equal(streams.residual, streams.frame - moved)
                assert streams.motion.any()
            before = streams.frame
    check_order_only(path)


PASSED_OVER = "some P-frames refer to an earlier frame than the one before, to which nothing refers"


def test_h264_p_frames_to_which_nothing_refers_make_chains_inexact(tmp_path: Path) -> None:
    """The trap: with temporal layers, and one reference frame, a P-frame points past the one before it."""
    plain = write(tmp_path / "plain.h264", texture(12, *SIZE))
    data = bytearray(plain.read_bytes())
    units = [at + 3 for at in range(len(data) - 4) if data[at : at + 3] == b"\x00\x00\x01" and data[at + 3] & 31 == 1]
    assert len(units) == 11
    assert index_video(plain).exact
    for numbers, reasons in (((4,), (PASSED_OVER,)), ((10,), ())):  # to the last P-frame of a GOP nothing need refer
        changed = bytearray(data)
        for number in numbers:
            changed[units[number]] &= 0b10011111  # nal_ref_idc 0
        path = tmp_path / "changed.h264"
        path.write_bytes(changed)
        index = index_video(path)
        assert index.types == "I" + 11 * "P"
        assert index.inexact_because == reasons


def test_disposable_p_frames_of_flv_make_chains_inexact(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.flv", texture(12, *SIZE), codec="flv")
    packets = packets_of(plain)
    assert [headers.flv_picture(packet) for packet in packets] == ["I", *11 * "P"]
    assert index_video(plain).exact
    for numbers, reasons in (((3, 7), (PASSED_OVER,)), ((11,), ())):
        changed = [bytearray(packet) for packet in packets]
        for number in numbers:
            bits = int.from_bytes(changed[number][:8], "big")
            size_bits = {0: 16, 1: 32}.get(bits >> (64 - 33) & 7, 0)
            type_at = 64 - 33 - size_bits - 2  # from the least significant bit
            assert bits >> type_at & 3 == 1
            changed[number][:8] = (bits ^ (3 << type_at)).to_bytes(8, "big")
        path = write_packets(plain, tmp_path / "changed.flv", [bytes(packet) for packet in changed])
        index = index_video(path)
        assert index.types == "I" + 11 * "P"
        assert index.inexact_because == reasons
        check_reading(path)
    assert headers.flv_picture(b"\xff" * 12) is None


def test_headers_that_change_on_the_way_count(tmp_path: Path) -> None:
    """The trap: only a file's first header is read, and a later one allows what that did not."""
    one = write(tmp_path / "one.h264", texture(13, *SIZE))
    several = write(tmp_path / "several.h264", texture(13, *SIZE), options={"x264-params": "bframes=0:ref=3:keyint=12"})
    path = tmp_path / "both.h264"
    path.write_bytes(one.read_bytes() + several.read_bytes())
    assert index_video(one).exact
    assert index_video(path).inexact_because == ("P-frames may refer to 3 frames, and FFmpeg does not say to which",)

    progressive = write(tmp_path / "one.m2v", texture(13, *SIZE), codec="mpeg2video")
    interlaced = write(tmp_path / "two.m2v", texture(13, *SIZE), codec="mpeg2video", options={"flags": "+ilme+ildct"})
    path = tmp_path / "both.m2v"
    path.write_bytes(progressive.read_bytes() + interlaced.read_bytes())
    assert index_video(progressive).exact
    assert index_video(path).inexact_because == ("pictures may be coded as two fields",)
    assert index_video(path).num_frames == 26
    check_reading(path)
