"""Reading by the places of packets gives what reading with a demuxer gives, and damage gives an error."""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from tests.codec.test_reader import KINDS, digest
from tests.codec.test_traps import write
from tests.conftest import moving_texture
from videokd.codec.index import Limits, PacketPlaces, VideoIndex, checksum_of, sum_of
from videokd.codec.indexed_decoder import IndexedDecoder
from videokd.codec.indexing import index_video
from videokd.codec.rgb import read_rgb
from videokd.errors import ConfigError, DecodeError
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode

#: Kinds of clips that can be read in this way; the others have B-frames, other codecs, or packets that are not whole in the file
WITH_PLACES = {"mpeg4", "mpeg4-avi", "mpeg4-raw", "mpeg4-4mv-qpel", "h264", "h264-slices", "h264-raw", "odd-size"}
ALL = ("iframe", "motion", "residual", "frame")


def without_places(index: VideoIndex) -> VideoIndex:
    return VideoIndex.from_json(replace(index, places=None).to_json())


def check_both_ways(path: Path, index: VideoIndex) -> None:
    """All positions in order, at random, in fresh readers, only motion, relative to the position before, and as RGB."""
    old = without_places(index)
    with videokd.open(path, index=index) as new, videokd.open(path, index=old) as other, videokd.open(path) as scanned:
        assert isinstance(new._decoder, IndexedDecoder)
        for accumulate in (True, False):
            for streams in (ALL, ("motion", "residual"), ("motion",), ("iframe",)):
                readers = [v.iterate(streams=streams, accumulate=accumulate) for v in (new, other, scanned)]
                for a, b, c in zip(*readers, strict=True):
                    assert digest(a) == digest(b) == digest(c)
        for a, b in zip(new.frames(pictures=True), other.frames(pictures=True), strict=True):
            assert (a.number, a.seconds, a.type) == (b.number, b.seconds, b.type)
            assert np.array_equal(a.vectors, b.vectors)
            assert np.array_equal(a.picture, b.picture)
    places = [(gop.index, position) for gop in index.gops for position in range(gop.num_positions)]
    np.random.default_rng(0).shuffle(places)
    with videokd.open(path, index=index) as new, videokd.open(path, index=old) as other:
        for gop, position in places:
            a, b = (v.read(gop=gop, position=position, streams=ALL) for v in (new, other))
            assert digest(a) == digest(b)
    for streams in (ALL, ("motion",), ("iframe",)):
        for gop, position in places[:4]:
            with videokd.open(path, index=index) as new, videokd.open(path, index=old) as other:
                a, b = (v.read(gop=gop, position=position, streams=streams) for v in (new, other))
                assert digest(a) == digest(b)
    numbers = np.random.default_rng(1).permutation(index.num_frames)[:9].tolist()
    assert np.array_equal(read_rgb(path, numbers, index=index), read_rgb(path, numbers, index=old))


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_give_the_same(kind: str, make_clip) -> None:
    path = make_clip(**KINDS[kind])
    index = VideoIndex.from_json(index_video(path).to_json())
    assert (index.places is not None) == (kind in WITH_PLACES)
    if index.places is not None:
        check_both_ways(path, index)


@pytest.mark.parametrize("codec", ["mpeg4", "h264"])
def test_prepared_real_clips(codec: str, shared: Path, tmp_path: Path) -> None:
    for name in ("v_ApplyEyeMakeup_g01_c01.avi", "SOX5yA1l24A.mp4"):
        path = tmp_path / f"{name}.mp4"
        transcode(shared / "clips" / name, path, Encoding(codec, short_side=128))
        check_both_ways(path, VideoIndex.from_json(index_video(path).to_json()))


def remuxed(source: Path, path: Path, options: dict[str, str]) -> Path:
    with av.open(str(source)) as one, av.open(str(path), "w", options=options) as other:
        stream = other.add_stream_from_template(one.streams.video[0])
        for packet in one.demux(video=0):
            if packet.size:
                packet.stream = stream
                other.mux(packet)
    return path


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}, {"movflags": "faststart"}])
@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "avi"])
def test_containers(container: str, options: dict[str, str], make_clip, tmp_path: Path) -> None:
    path = remuxed(make_clip("mpeg4"), tmp_path / f"clip.{container}", options)
    index = index_video(path)
    assert index.places is not None
    check_both_ways(path, index)


def test_no_demuxer_is_opened(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip("mpeg4")
    index = index_video(path)
    monkeypatch.setattr(av, "open", None)
    with videokd.open(path, index=index) as video:
        assert video.read(gop=1, position=5).residual.any()


def test_bytes_and_file_objects(make_clip) -> None:
    path = make_clip("mpeg4")
    index, data = index_video(path), path.read_bytes()
    assert index_video(data) == index_video(io.BytesIO(data)) == index
    with videokd.open(path, index=index) as video:
        expected = [digest(streams) for streams in video.iterate()]
    for source in (data, io.BytesIO(data)):
        with videokd.open(source, index=index) as video:
            assert isinstance(video._decoder, IndexedDecoder)
            assert [digest(streams) for streams in video.iterate()] == expected
    with (
        videokd.open(io.BytesIO(data[:-3000]), index=index) as video,
        pytest.raises(DecodeError, match="<BytesIO> cannot be read as a video"),  # its tables were at the end
    ):
        video.read(gop=2, position=5)


def test_a_decoder_is_kept_for_the_next_file_of_the_same_configuration(
    make_clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videokd.codec.indexed_decoder._SPARE", spare := {})
    one, other = make_clip("mpeg4", seed=0), make_clip("mpeg4", seed=3, step=(-2, 5))
    indexes = {path: index_video(path) for path in (one, other)}
    assert all(places_of(index).steady for index in indexes.values())
    expected = {}
    for path, index in indexes.items():
        with videokd.open(path, index=without_places(index)) as video:
            expected[path] = [digest(video.read(gop=gop, position=7, streams=ALL)) for gop in (1, 0)]
    spare.clear()
    contexts = []
    for path in (one, other, other, one):
        with videokd.open(path, index=indexes[path]) as video:
            assert [digest(video.read(gop=gop, position=7, streams=ALL)) for gop in (1, 0)] == expected[path]
            contexts.append(video._decoder._context)
            assert not spare
            with videokd.open(other, index=indexes[other]) as second:  # one decoder serves one reader
                assert digest(second.read(gop=1, position=7, streams=ALL)) == expected[other][0]
                assert second._decoder._context is not video._decoder._context
    assert len({id(context) for context in contexts}) < 4
    assert len(spare) == 1


def test_decoders_that_may_have_learned_something_are_not_kept(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videokd.codec.indexed_decoder._SPARE", spare := {})
    path = make_clip("mpeg4")
    index = index_video(path)
    spare.clear()
    unsteady = replace(index, places=replace(places_of(index), steady=False))
    with videokd.open(path, index=unsteady) as video:
        video.read(gop=0, position=3)
    assert not spare
    with videokd.open(path, index=index) as video:
        for streams in (("motion",), ALL):
            video.read(gop=0, position=3, streams=streams)
    assert len(spare) == 2  # one for motion alone
    spare.clear()
    places = places_of(index)
    sums, byte = bytearray(b64decode(index.sums)), next(places.following(3))[0]
    sums[6:8] = sum_of(
        checksum_of(path.read_bytes()[byte : byte + 1])
    )  # as if the file had been damaged when it was indexed
    lying = replace(places, sizes=(*places.sizes[:3], 1, *places.sizes[4:]))
    damaged = replace(index, places=lying, sums=b64encode(sums).decode())
    with videokd.open(path, index=damaged) as video, pytest.raises(DecodeError):
        list(video.iterate())
    assert not spare
    unsure = replace(index, sums="")  # of an earlier version
    with videokd.open(path, index=unsure) as video:
        video.read(gop=0, position=3)
    assert not spare


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("kind", ["mpeg4", "h264"])
def test_a_changed_packet_is_never_decoded(kind: str, direct: bool, make_clip, tmp_path: Path) -> None:
    """Also not that of a P-frame; FFmpeg would conceal it, or take settings from it that the next file's decoder keeps."""
    path, other = make_clip(**KINDS[kind]), tmp_path / "other.mp4"
    index, data = index_video(path), bytearray(path.read_bytes())
    byte, size = next(places_of(index).following(5))
    data[byte + size - 2] ^= 1
    other.write_bytes(data)
    index = index if direct else without_places(index)
    with videokd.open(path) as video:
        expected = digest(video.read(gop=0, position=7, streams=ALL))
    with videokd.open(other, index=index) as video:
        video.read(gop=0, position=4)
        with pytest.raises(DecodeError, match="packet 5 is not the one that the index describes"):
            video.read(gop=0, position=5)
    with videokd.open(path, index=index) as video:
        assert digest(video.read(gop=0, position=7, streams=ALL)) == expected


def test_nothing_is_read_after_closing(make_clip) -> None:
    path = make_clip("mpeg4")
    index = index_video(path)
    with videokd.open(path, index=index) as video:
        frames = video.frames()
        next(frames)
    with pytest.raises(ConfigError, match="is closed"):
        list(frames)


def test_a_file_whose_headers_change_is_not_steady(tmp_path: Path) -> None:
    """An encoder's name that only the first packet has, and parameter sets that are not in the container's header."""
    frames = moving_texture(24, 96, 128)
    joined = b""
    for params in ("cabac=0:qp=20", "cabac=1:qp=34"):
        options = {"x264-params": f"bframes=0:ref=1:scenecut=0:keyint=6:min-keyint=6:{params}"}
        joined += write(tmp_path / "part.h264", frames, options=options).read_bytes()
    (tmp_path / "joined.h264").write_bytes(joined)
    places = index_video(tmp_path / "joined.h264").places
    assert places is None or not places.steady
    assert places_of(index_video(tmp_path / "part.h264")).steady


def test_manifests_of_earlier_versions_are_read_with_a_demuxer(make_clip) -> None:
    path = make_clip("mpeg4")
    index = index_video(path)
    values = json.loads(index.to_json())
    del values["places"]
    old = VideoIndex.from_json(json.dumps(values))
    assert old == replace(index, places=None)
    assert json.loads(old.to_json()) == values
    with videokd.open(path, index=old) as video:
        assert not isinstance(video._decoder, IndexedDecoder)


def places_of(index: VideoIndex) -> PacketPlaces:
    assert index.places is not None
    return index.places


def test_places_follow_from_sizes_and_runs(make_clip) -> None:
    places = places_of(index_video(make_clip("mpeg4", container="avi")))
    assert len(places.runs) == len(places.sizes) == 30
    assert [byte for byte, _ in places.following(0)] == [byte for _, byte in places.runs]
    places = PacketPlaces((5, 6, 7, 8), ((0, 100), (2, 300)), "", "mp4v")
    assert list(places.following(0)) == [(100, 5), (105, 6), (300, 7), (307, 8)]
    assert list(places.following(3)) == [(307, 8)]
    assert list(places.following(1)) == [(105, 6), (300, 7), (307, 8)]
    assert list(places.following(4)) == []


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ((), ()),
        ((), ((0, 5),)),
        ((5, 0), ((0, 5),)),
        ((5, -1), ((0, 5),)),
        ((5, 1.5), ((0, 5),)),
        ((5, "7"), ((0, 5),)),
        ((5, True), ((0, 5),)),
        ((5, 7), ()),
        ((5, 7), ((1, 5),)),
        ((5, 7), ((0,),)),
        ((5, 7), ((0, 5), (0, 6))),
        ((5, 7), ((0, None),)),
    ],
)
def test_impossible_places_are_refused(sizes: tuple, runs: tuple) -> None:
    with pytest.raises(DecodeError, match="impossible places of packets"):
        PacketPlaces(sizes, runs, "", "mp4v")


def test_a_file_that_was_cut_off_or_replaced(make_clip, tmp_path: Path) -> None:
    whole = remuxed(make_clip("mpeg4"), tmp_path / "whole.mp4", {"movflags": "faststart"})
    index, data, path = index_video(whole), whole.read_bytes(), tmp_path / "cut.mp4"
    first = next(places_of(index).following(12))[0]
    path.write_bytes(data[: first + 2000])
    with videokd.open(path, index=index) as video:
        video.read(gop=0, position=11)
        with pytest.raises(DecodeError, match=r"cut\.mp4 ends before packet \d+ does.*Copy the file again"):
            video.read(gop=1, position=11)
        with pytest.raises(DecodeError, match="ends before packet 24"):
            video.read(gop=2, position=0, streams=("iframe",))
        video.read(gop=0, position=3)
    path.write_bytes(make_clip("mpeg4", seed=7).read_bytes())
    with videokd.open(path, index=index) as video, pytest.raises(DecodeError, match="packet 0 is not the one"):
        video.read(gop=0, position=1)
    path.write_bytes(b"text, not a video\n" * 100)
    with videokd.open(path, index=index) as video, pytest.raises(DecodeError, match=r"cut\.mp4 is a text file"):
        video.read(gop=0, position=1)
    path.unlink()
    with pytest.raises(DecodeError, match="is not there"):
        videokd.open(path, index=index)


def test_other_damage_of_the_index(make_clip) -> None:
    path = make_clip("mpeg4")
    index = index_video(path)
    places = places_of(index)
    with pytest.raises(DecodeError, match=r"has 30 packets, and places of 29\. Index it again"):
        videokd.open(path, index=replace(index, places=replace(places, sizes=places.sizes[1:])))
    for changed in (replace(places, extradata="!"), replace(places, tag="mp4"), replace(places, extradata=7)):
        with (
            videokd.open(path, index=replace(index, places=changed)) as video,
            pytest.raises(DecodeError, match="no decoder configuration"),
        ):
            video.read(gop=0, position=1)
    for sums in ("!", "A", 7):
        with (
            videokd.open(path, index=replace(index, sums=sums)) as video,
            pytest.raises(DecodeError, match="impossible checksums of packets"),
        ):
            video.read(gop=0, position=1)
    with (
        videokd.open(path, index=replace(index, sums="AAAA")) as video,
        pytest.raises(DecodeError, match="packet 1 is not the one"),
    ):
        video.read(gop=0, position=1)
    with pytest.raises(DecodeError, match=r"has pictures of 128×96 pixels \(accepted: up to 100"):
        videokd.open(path, index=index, limits=Limits(side=100))


@pytest.mark.parametrize("kind", ["mpeg4", "h264"])
def test_lying_places_give_an_error_or_a_picture(kind: str, make_clip) -> None:
    path = make_clip(**KINDS[kind])
    index, rng = index_video(path), np.random.default_rng(0)
    places, outcomes = places_of(index), set()
    for _ in range(60):
        sizes, byte = list(places.sizes), places.runs[0][1]
        number = int(rng.integers(30))
        sizes[number] = int(rng.choice([1, sizes[number] - 1, sizes[number] + 1, 10**6, 10**12, 10**30, 2**63]))
        runs = ((0, byte), (number, int(rng.choice([0, 1, byte - 1, byte + 7, -5, 10**9, 2**62])))) if number else ()
        lying = replace(places, sizes=tuple(sizes), runs=runs or ((0, byte - 3),))
        with videokd.open(path, index=replace(index, places=lying, sums="")) as video:
            for gop in (0, 2, 1):
                try:
                    outcomes.add(str(video.read(gop=gop, position=5).residual.shape))
                except DecodeError as error:
                    outcomes.add(str(error).split()[0].rstrip(":"))
    assert outcomes == {"(96, 128, 3)", str(path)}


@pytest.mark.parametrize("types", ["IPPIP", "PIPSPIP", "II", "P", "IBPbI-P"])
def test_anchors_are_the_i_and_p_frames_from_each_i_frame_on(types: str) -> None:
    index = VideoIndex("mpeg4", 16, 16, 25.0, len(types), types, (), (), (), ())
    numbers = [n for n, kind in enumerate(types) if kind in "IPS"]
    starts = [n for n, kind in enumerate(types) if kind == "I"]
    expected = [
        tuple(n for n in numbers if sum(start <= n for start in starts) == gop + 1) for gop in range(len(starts))
    ]
    assert index.anchors == tuple(expected)
    assert [index.frame_number(n) for n in numbers] == [n - types[:n].count("-") for n in numbers]
