""" "Packed" MPEG-4 (UCF101 and HMDB51 as shipped): indexed from headers, and decoded once, without B-frames that nobody asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.codec.test_oracles import NAMES, SHARED_CLIPS
from tests.codec.test_reader import digest
from tests.codec.test_syntax_traps import in_pairs, packed, packets_of, write_packets
from tests.codec.test_work import Work
from videokd.bitstream.header_reader import HeaderReader
from videokd.codec.container import PictureDecoder
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_by_decoding, index_from_headers
from videokd.codec.rgb import read_rgb

PACKED = [
    name for name in NAMES if name.endswith(".avi") and b"DivX503b1393p" in (SHARED_CLIPS / name).read_bytes()[:40_000]
] + [
    name for name in NAMES if name.endswith(".avi") and b"DivX503b2816p" in (SHARED_CLIPS / name).read_bytes()[:40_000]
]
real_packed_clips = pytest.mark.parametrize(
    "name", PACKED or [pytest.param("none", marks=pytest.mark.skip(f"no {SHARED_CLIPS}"))]
)


def both_indexes(path: Path) -> tuple[VideoIndex | None, VideoIndex]:
    """(from headers, by decoding)."""
    decoder = PictureDecoder(path)
    try:
        found = index_from_headers(decoder)
        decoder.reopen()
        return found, index_by_decoding(decoder)
    finally:
        decoder.close()


def check_alike(path: Path, index: VideoIndex, decoded: VideoIndex, *, reads: int = 6) -> None:
    """Both indexes give the same streams, frames and pictures, in order and at random."""
    assert replace(index, types=index.types.upper()) == replace(decoded, types=decoded.types.upper())
    with videokd.open(path, index=index) as video, videokd.open(path, index=decoded) as other:
        for streams, accumulate in ((("motion",), False), (("motion", "residual"), True)):
            pairs = zip(
                video.iterate(streams=streams, accumulate=accumulate),
                other.iterate(streams=streams, accumulate=accumulate),
                strict=True,
            )
            assert all(digest(one) == digest(another) for one, another in pairs)
        for one, another in zip(video.frames(), other.frames(), strict=True):
            assert (one.number, one.type, one.vectors.tobytes()) == (
                another.number,
                another.type,
                another.vectors.tobytes(),
            )
        rng = np.random.default_rng(0)
        places = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
        for n in rng.integers(0, len(places), reads):
            gop, position = places[n]
            assert digest(video.read(gop=gop, position=position)) == digest(other.read(gop=gop, position=position))
    for _ in range(reads):
        numbers = rng.integers(0, index.num_frames, 2).tolist()
        assert np.array_equal(read_rgb(path, numbers, index=index), read_rgb(path, numbers, index=decoded))


@real_packed_clips
def test_real_packed_clips_are_indexed_without_decoding(name: str) -> None:
    index, decoded = both_indexes(SHARED_CLIPS / name)
    assert index is not None
    assert index.types.count("b") == decoded.types.count("B") > 0
    check_alike(SHARED_CLIPS / name, index, decoded)


def test_all_packed_clips_are_known() -> None:
    if not NAMES:
        pytest.skip(f"no {SHARED_CLIPS}")
    assert len(PACKED) == 8


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return packed(in_pairs(folder / "plain.avi", num_frames=19), folder / "packed.avi")


def test_motion_alone_decodes_no_b_frame(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    with videokd.open(pairs) as video:
        types = video.index.types
        assert not work.fed  # indexed without decoding
        list(video.iterate(streams=("motion",)))
    once = [number for number, kind in enumerate(types) if kind != "b"]
    assert [number for number in work.fed if number >= 0] == once
    assert "b" in types


def edited(packets: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """The same packets with some missing, repeated or in another order; the first stays where it is."""
    first, *rest = packets
    for _ in range(int(rng.integers(1, 3))):
        at, action = int(rng.integers(len(rest) - 1)), int(rng.integers(4))
        if action == 0:
            del rest[at]
        elif action == 1:
            rest.insert(at, rest[int(rng.integers(len(rest)))])
        elif action == 2:
            rest[at], rest[at + 1] = rest[at + 1], rest[at]
        else:
            rest.insert(at, b"\x7f")
    return [first, *rest]


@pytest.mark.parametrize("form", ["packed", "plain"])
def test_headers_give_what_the_decoder_gives_or_nothing(form: str, pairs: Path, tmp_path: Path) -> None:
    """With packets missing, repeated or moved, FFmpeg drops pictures, and shows some out of order."""
    template = pairs if form == "packed" else pairs.with_name("plain.avi")
    rng, sure = np.random.default_rng(0), 0
    packets = packets_of(template)
    for variant in range(60):
        path = write_packets(template, tmp_path / f"{variant}.avi", edited(packets, rng))
        decoder = PictureDecoder(path)
        index = index_from_headers(decoder)
        decoder.close()
        if index is not None:
            sure += 1
            check_alike(path, index, both_indexes(path)[1], reads=2)
    assert 3 < sure < 50


def vop(kind: str, ticks: int, *, seconds: int = 0, coded: bool = True, time_bits: int = 5) -> bytes:
    bits = f"{'IPBS'.index(kind):02b}" + "1" * seconds + "01" + f"{ticks:0{time_bits}b}" + "1" + str(int(coded))
    bits += "1" * (-len(bits) % 8)
    return b"\x00\x00\x01\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big") + bytes([0x55] * 40)


def layer(*, low_delay: int) -> bytes:
    """A video object layer of 25 ticks a second, rectangular, 16×16, progressive."""
    bits = "0" + "00010001" + "0" + "0001" + "1" + "01" + str(low_delay) + "0" + "00" + "1" + f"{25:016b}" + "1" + "0"
    bits += "1" + f"{16:013b}" + "1" + f"{16:013b}" + "1" + "0" + "1" + "0"
    bits += "0" * (-len(bits) % 8)
    return b"\x00\x00\x01\x20" + int(bits, 2).to_bytes(len(bits) // 8, "big")


DIVX = b"\x00\x00\x01\xb2DivX503b1393p"
EMPTY = vop("P", 0, coded=False)
START = layer(low_delay=0) + DIVX + vop("I", 0)


@pytest.mark.parametrize(
    ("packets", "types"),
    [
        ([START, vop("P", 2) + vop("B", 1), EMPTY], ["I", "P", "b"]),
        ([START, vop("P", 3) + vop("B", 1), vop("B", 2), EMPTY], ["I", "P", "b", "b"]),
        ([START, b"\x7f", EMPTY, vop("P", 1)], ["I", "-", "-", "P"]),
        ([START, vop("P", 2) + vop("B", 1), b"\x7f", vop("P", 3)], ["I", "P", "b", "P"]),
        ([START, vop("P", 0, seconds=1) + vop("B", 24), EMPTY], ["I", "P", "b"]),  # a second later
        ([START, vop("P", 2) + vop("B", 1), vop("P", 3)], ["I", "P", None]),  # the last is lost: the B-picture takes its place
        ([START, vop("P", 2) + vop("B", 3), EMPTY], ["I", "P", None]),  # shown after its references
        ([START, vop("P", 2) + vop("B", 2), EMPTY], ["I", "P", None]),
        ([START, vop("P", 2) + vop("B", 0), EMPTY], ["I", "P", None]),
        ([START, vop("B", 0)], ["I", None]),  # has one reference
        ([START, vop("P", 3) + vop("B", 1) + vop("B", 2)], ["I", None]),
        ([START, vop("P", 3) + vop("P", 4)], ["I", None]),
        ([START, vop("P", 2) + vop("B", 1), b"\x00\x00\x01\xb0\x01" + EMPTY], ["I", "P", None]),
        ([START, vop("P", 2) + vop("B", 1), layer(low_delay=0)], ["I", "P", None]),
        ([layer(low_delay=0) + vop("I", 0), vop("P", 2) + vop("B", 1)], ["I", None]),  # nothing says that it is packed
        ([START, vop("P", 2) + b"\x00\x00\x01\xb6"], ["I", None]),  # cut off
        ([START, vop("P", 2) + b"\x00\x00\x01\xb6\xff\xff"], ["I", None]),
        ([layer(low_delay=1) + DIVX + vop("I", 0), vop("P", 2) + vop("B", 1)], ["I", None]),
    ],
)  # fmt: skip
def test_what_each_packet_shows(packets: list[bytes], types: list[str | None]) -> None:
    reader = HeaderReader("mpeg4", b"")
    assert [reader.read(packet, keyframe=number == 0) for number, packet in enumerate(packets)] == types


def test_a_layer_with_another_clock_is_not_sure() -> None:
    reader = HeaderReader("mpeg4", b"")
    assert reader.read(START, keyframe=True) == "I"
    assert reader.read(layer(low_delay=1) + vop("I", 1), keyframe=True) is None
