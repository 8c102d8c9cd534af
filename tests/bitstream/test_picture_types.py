"""One table of picture types: what a decoder calls a picture, and what an index and a transcoded source make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from av.video.frame import PictureType, VideoFrame

from videokd.bitstream.picture_types import picture_type
from videokd.codec.container import PictureDecoder
from videokd.codec.indexing import index_by_decoding
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode


@pytest.mark.parametrize("kind", PictureType)
def test_every_type_of_ffmpeg(kind: PictureType) -> None:
    frame = VideoFrame(16, 16, "yuv420p")
    frame.pict_type = kind
    # A switching picture (SI, SP) is an I- or P-picture; BI is a B-picture without prediction
    expected = {"NONE": "-", "SI": "I", "SP": "P", "BI": "B"}.get(kind.name, kind.name)
    assert picture_type(frame) == expected


def index_of(path: Path) -> Any:
    decoder = PictureDecoder(path)
    try:
        return index_by_decoding(decoder)
    finally:
        decoder.close()


def test_b_pictures_without_prediction_start_no_gop(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """No encoder of FFmpeg writes VC-1's BI-pictures: here the decoder calls some B-pictures so."""
    path = make_clip("mpeg2video", container="ts", b_frames=2)
    expected = index_of(path)
    feed = PictureDecoder.feed
    renamed = 0

    def renaming(self: PictureDecoder, packet: Any, number: int | None) -> list[tuple[int, Any]]:
        nonlocal renamed
        frames = feed(self, packet, number)
        for _, frame in frames:
            if frame.pict_type == PictureType.B:
                frame.pict_type = PictureType.BI
                renamed += 1
        return frames

    monkeypatch.setattr(PictureDecoder, "feed", renaming)
    assert index_of(path) == expected
    assert renamed == expected.types.count("B") > 10


def test_types_of_a_transcoded_source(make_clip, tmp_path: Path) -> None:
    path = make_clip("mpeg2video", container="ts", b_frames=2)
    index = index_of(path)
    by_number = {number: index.types[packet] for packet, number in index.frame_numbers.items()}
    form = transcode(path, tmp_path / "out.mp4", Encoding(short_side=48))
    assert form.types == "".join(by_number[number] for number in sorted(by_number))
