"""Only the work for what is asked: packets that are decoded, pictures that are converted, passes over the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.codec.test_reader import KINDS, digest
from videokd.bitstream.source import Source
from videokd.codec.colours import Colours, Planes, difference_of_planes
from videokd.codec.container import PictureDecoder, decode_packet
from videokd.codec.indexing import index_video


class Work:
    """Counts what readers do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fed: list[int | None] = []
        self.converted = 0
        rows = Colours.rows

        def counted_decode(context: object, packet: object, number: int | None, source: Source) -> list:
            if packet is not None:
                self.fed.append(number)
            return decode_packet(context, packet, number, source)

        def counted_rows(colours: Colours, frame: object) -> object:
            self.converted += 1
            return rows(colours, frame)

        def counted_difference(planes: Planes, warped: np.ndarray) -> np.ndarray:
            self.converted += 1
            return difference_of_planes(planes, warped)

        monkeypatch.setattr("videokd.codec.cursor.difference_of_planes", counted_difference)
        for module in ("container", "indexed_decoder"):
            monkeypatch.setattr(f"videokd.codec.{module}.decode_packet", counted_decode)
        monkeypatch.setattr(Colours, "rows", counted_rows)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


@pytest.mark.parametrize("with_places", [True, False])
@pytest.mark.parametrize("kind", ["mpeg4", "mpeg4-avi", "mpeg4-b", "h264", "h264-default", "mpeg2-ts"])
def test_a_single_iframe_decodes_one_packet_and_converts_one_picture(
    kind: str, with_places: bool, make_clip, work: Work
) -> None:
    path = make_clip(**KINDS[kind])
    index = index_video(path)
    if not with_places:
        index = replace(index, places=None)
    work.fed.clear()
    work.converted = 0
    for gop in reversed(range(len(index.gops))):
        packet = index.anchors[gop][0]
        with videokd.open(path, index=index) as video:
            video.read(gop=gop, position=index.gops[gop].num_positions - 1, streams=("iframe",))
        assert work.fed == [packet]
        assert work.converted == 1
        work.fed.clear()
        work.converted = 0


def test_all_iframes_decode_only_keyframes(make_clip, work: Work) -> None:
    path = make_clip("mpeg4", num_frames=60)
    with videokd.open(path) as video:
        for gop in video.gops:
            video.read(gop=gop.index, position=0, streams=("iframe",))
            video.read(gop=gop.index, position=3, streams=("iframe",))
    assert work.fed == [0, 12, 24, 36, 48]
    assert work.converted == 5


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("kind", ["mpeg4", "mpeg4-b", "h264", "h264-default", "mpeg1"])
def test_motion_converts_no_colour(kind: str, accumulate: bool, make_clip, work: Work) -> None:
    with videokd.open(make_clip(**KINDS[kind])) as video:
        list(video.iterate(streams=("motion",), accumulate=accumulate))
        last = video.gops[-1]
        video.read(gop=last.index, position=last.num_positions - 1, streams=("motion",), accumulate=accumulate)
    assert work.converted == 0


def test_one_picture_is_converted_for_each_that_is_needed(make_clip, work: Work) -> None:
    path = make_clip("mpeg4")
    for streams, accumulate, converted in (
        (("frame",), True, 1),
        (("iframe", "motion"), True, 1),
        (("residual",), True, 2),
        (("residual",), False, 2),
        (("iframe", "motion", "residual", "frame"), True, 2),
    ):
        with videokd.open(path) as video:
            work.converted = 0
            video.read(gop=1, position=8, streams=streams, accumulate=accumulate)
            assert work.converted == converted, streams


def test_position_0_of_motion_and_residual_decodes_nothing(make_clip, work: Work) -> None:
    path = make_clip("mpeg4")
    with videokd.open(path) as video:
        streams = video.read(gop=1, position=0, streams=("motion", "residual"))
    assert not streams.residual.any()
    assert work.fed == []


@pytest.mark.parametrize("kind", ["mpeg4-b", "mpeg1", "mpeg2-ts", "h264-default"])
def test_b_frames_that_nothing_refers_to_are_not_decoded(kind: str, make_clip, work: Work) -> None:
    path = make_clip(**KINDS[kind])
    index = index_video(path)
    assert "b" in index.types
    work.fed.clear()
    with videokd.open(path, index=index) as video:
        list(video.iterate())
    assert [number for number in work.fed if number >= 0] == [n for n, kind in enumerate(index.types) if kind != "b"]


def test_decoding_stops_at_the_position(make_clip, work: Work) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        video.read(gop=1, position=3)
        assert work.fed == [12, 13, 14, 15]
        video.read(gop=1, position=5)
        assert work.fed == [12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize("kind", ["mpeg4", "mpeg4-b", "h264", "h264-default", "h264-slices", "mpeg1", "mpeg2-ts"])
def test_indexing_decodes_nothing_where_headers_tell(kind: str, make_clip, work: Work) -> None:
    videokd.open(make_clip(**KINDS[kind])).close()
    assert work.fed == []


def test_an_index_that_is_handed_in_reads_no_packet(make_clip, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    path: Path = make_clip("h263", container="avi", size=(176, 144))
    index = index_video(path)
    assert len(work.fed) == 30
    monkeypatch.setattr(PictureDecoder, "packets", None)
    with videokd.open(path, index=index) as video:
        assert video.num_frames == 30


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_small_file_without_index_is_read_once_and_gives_the_same_as_a_large_one(
    kind: str, small: bool, make_clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip(**KINDS[kind])
    with videokd.open(path, index=index_video(path)) as video:
        places = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
        expected = {place: digest(video.read(gop=place[0], position=place[1])) for place in places}
    passes = 0
    demux = PictureDecoder.packets

    def counted(decoder: PictureDecoder) -> object:
        nonlocal passes
        passes += 1
        return demux(decoder)

    monkeypatch.setattr(PictureDecoder, "packets", counted)
    if not small:
        monkeypatch.setattr("videokd.codec.container._MOST_KEPT_BYTES", 0)
    with videokd.open(path) as video:
        indexing = passes
        assert [digest(streams) for streams in video.iterate()] == list(expected.values())
        np.random.default_rng(0).shuffle(places)
        assert all(digest(video.read(gop=gop, position=at)) == expected[gop, at] for gop, at in places)
    assert (passes == indexing) is small
