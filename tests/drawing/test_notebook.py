"""What streams, readers, students and predictions show of themselves in a notebook."""

from __future__ import annotations

import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import videokd
from tests.conftest import MakeClip
from videokd.drawing.notebook import bars_html
from videokd.drawing.picture import places_to_show, streams_picture
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.prediction.prediction import Prediction, RankedLabel
from videokd.types import Streams

HOSTILE = "<script>alert('x')</script> & \"a\" \x1b[2J \u202e"


class _Seen(HTMLParser):
    """The tags of a page, and its text; fails where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        assert not [name for name, _ in attrs if name not in ("style", "title")]
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    return np.round(255 * matplotlib.image.imread(io.BytesIO(png), format="png")).astype(np.uint8)[..., :3]


def test_streams_are_the_picture_of_show(make_clip: MakeClip) -> None:
    with videokd.open(make_clip()) as video:
        streams = video.read(gop=0, position=5, streams=("iframe", "motion", "residual", "frame"))
        only_motion = video.read(gop=0, position=5, streams=("motion",))
        picture = pixels(streams._repr_png_())
        np.testing.assert_array_equal(picture, streams_picture([streams], title="", dots_per_inch=72))
        assert pixels(only_motion._repr_png_()).shape[1] < picture.shape[1]


def test_a_video_is_three_positions_of_it(make_clip: MakeClip) -> None:
    with videokd.open(make_clip()) as video:
        before = video.read(gop=1, position=3)
        gop, positions = places_to_show([group.num_positions for group in video.gops])
        names = ("iframe", "motion", "residual", "frame")
        samples = [video.read(gop=gop, position=position, streams=names) for position in positions]
        title = f"{Path(video.source.name).name}   (mpeg4, 128×96)"
        wanted = streams_picture(samples, title=title, dots_per_inch=72)
        numbers = []
        for frame in video.frames():  # a display in between disturbs nothing
            numbers.append(frame.number)
            if frame.number == 4:
                np.testing.assert_array_equal(pixels(video._repr_png_()), wanted)
        assert numbers == list(range(video.num_frames))
        np.testing.assert_array_equal(video.read(gop=1, position=3).residual, before.residual)
    assert video._repr_png_() is None  # closed
    assert "closed" in repr(video)


def test_videos_without_vectors_and_from_memory(make_clip: MakeClip) -> None:
    clip = make_clip("mjpeg", container="avi", pixel_format="yuvj420p")
    with videokd.open(clip.read_bytes()) as video:
        assert pixels(video._repr_png_()).ndim == 3
    with clip.open("rb") as file, videokd.open(file) as video:
        file.close()
        video._repr_png_()  # the file object is gone: a picture or none, and no error


def test_large_frames_are_scaled_down() -> None:
    height, width = 2160, 3840
    streams = Streams(
        0,
        1,
        iframe=np.zeros((height, width, 3), np.uint8),
        motion=np.zeros((height, width, 2), np.int16),
        valid=np.ones((height, width), np.bool_),
    )
    picture = pixels(streams._repr_png_())
    assert max(picture.shape) < 1500


@pytest.mark.parametrize(
    "streams",
    [
        Streams(0, 0),
        Streams(0, 1, iframe=np.zeros(8, np.uint8)),
        Streams(0, 1, iframe=np.zeros((16, 16, 3), np.uint8), motion=np.full((16, 16, 2), 99, np.int16)),
        Streams(0, 1, frame="no array"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_drawn_is_text(streams: Streams) -> None:
    assert streams._repr_png_() is None


def test_a_broken_reader_is_text(make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    with videokd.open(make_clip()) as video:
        for error in (OSError("gone"), videokd.DecodeError("damaged"), RuntimeError("of a file object")):

            def fails(error: Exception = error, **kwargs: object) -> None:
                raise error

            monkeypatch.setattr(video, "read", fails)
            assert video._repr_png_() is None


def test_students_are_a_table() -> None:
    specs = {
        "a": NetworkSpec(("iframe",), "test_resnet", 20, 32),
        "b": NetworkSpec(("motion", "residual"), "test_resnet", 20, 48),
    }
    names = [HOSTILE, *(f"class {number}" for number in range(19))]
    students = build_students(specs, PredictionSpec(names, 3, weights={"a": 1.0, "b": 2.5}), seed=0)
    page = students._repr_html_()
    seen = _Seen(page)
    assert "script" not in seen.tags
    assert "<script>alert('x')</script>" in seen.text
    assert "\x1b" not in page
    assert "\u202e" not in page
    count = sum(parameter.numel() for parameter in students.members["b"].parameters())
    for words in (
        "motion + residual",
        "48×48",
        "test_resnet",
        f"{count:,}",
        "2.5",
        "20 classes: ",
        "… 20 in all",
        "3 segments",
    ):
        assert words in seen.text
    assert seen.tags.count("tr") == 3
    assert "class 18" not in seen.text


def test_predictions_are_bars() -> None:
    labels = (RankedLabel(HOSTILE, 0.75), RankedLabel("b", 0.25), RankedLabel("c", 0.0))
    prediction = Prediction("clip <b>.mp4", labels, {"transcode": 0.0, "read": 0.0123, "network": 0.5})
    page = prediction._repr_html_()
    seen = _Seen(page)
    assert "script" not in seen.tags
    assert "<script>alert('x')</script>" in seen.text
    for words in ("75.0 %", "25.0 %", "0.0 %", "clip <b>.mp4 (transcode 0 ms, read 12 ms, network 500 ms; as it is)"):
        assert words in seen.text
    assert [style for style in seen.styles if "width:75.0%" in style]
    assert "\x1b" not in page
    assert _Seen(replace(prediction, labels=())._repr_html_()).tags.count("tr") == 0


@pytest.mark.parametrize(("value", "width"), [(float("nan"), "0.0"), (7.0, "100.0"), (-1.0, "0.0")])
def test_numbers_that_are_no_shares(value: float, width: str) -> None:
    assert f"width:{width}%" in bars_html([("a", value)], about="")
