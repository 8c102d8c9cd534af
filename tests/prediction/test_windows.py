"""Windows over a video: which there are, what is seen in each, and that the file is decoded once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import videokd
from tests.conftest import MakeClip
from videokd.codec import container
from videokd.codec.reader import open_video
from videokd.datasets.view import View, central_crop, read_inputs
from videokd.errors import ConfigError
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.prediction import windows
from videokd.prediction.torch_predictor import TorchPredictor
from videokd.prediction.windows import predict_windows, window_spans


@pytest.fixture(scope="module")
def students() -> Students:
    specs = {stream: NetworkSpec((stream,), "test_resnet", 3, 32) for stream in ("iframe", "motion")}
    return build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=0).eval()


@pytest.mark.parametrize(
    ("duration", "window", "stride", "expected"),
    [
        (4.0, 2.0, 1.0, [(0, 2), (1, 3), (2, 4)]),
        (4.5, 2.0, 1.0, [(0, 2), (1, 3), (2, 4), (2.5, 4.5)]),
        (1.5, 2.0, 1.0, [(0, 1.5)]),
        (2.0, 2.0, 1.0, [(0, 2)]),
        (3.0, 1.0, 5.0, [(0, 1), (2, 3)]),
        (0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),  # 0.3 / 0.1 is not quite 3
    ],
)
def test_spans_cover_the_video(duration: float, window: float, stride: float, expected: list[Any]) -> None:
    spans = window_spans(duration, window_seconds=window, stride_seconds=stride)
    assert np.array(spans) == pytest.approx(np.array(expected))


def places_by_hand(video: Any, span: tuple[float, float], *, segments: int) -> tuple[tuple[int, int], ...]:
    """In a loop: of each part of the window's positions, the one nearest to the middle that has motion."""
    everything = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
    seconds = [video.index.seconds_of(video.gops[gop].frame_numbers[position]) for gop, position in everything]
    inside = [at for at, moment in enumerate(seconds) if span[0] <= moment < span[1]]
    moving = [at for at, (_, position) in enumerate(everything) if position]
    chosen = []
    for part in range(segments):
        low, high = (inside[0] + len(inside) * edge // segments for edge in (part, part + 1))
        middle = (low + max(high - 1, low)) / 2
        chosen.append(everything[min(moving, key=lambda at: abs(at - middle))])
    return tuple(chosen)


@pytest.mark.parametrize(
    "clip", [{"gop": 12}, {"gop": 5}, {"codec": "libx264", "b_frames": 2}], ids=["12", "5", "B-frames"]
)
def test_each_window_is_answered_as_if_read_alone(
    clip: dict[str, Any], make_clip: MakeClip, students: Students
) -> None:
    path = make_clip(num_frames=75, **clip)
    found = predict_windows(path, students, window_seconds=1, stride_seconds=0.3, num_segments=3, transcode="never")
    assert found.spans == window_spans(3.0, window_seconds=1, stride_seconds=0.3)
    predictor = TorchPredictor(students)
    with open_video(path) as video:
        video.cut_gops(12)
        size = (video.width, video.height)
        for span, probabilities in zip(found.spans, found.probabilities, strict=True):
            view = View(places_by_hand(video, span, segments=3), (central_crop(*size),), size)
            streams = {key: values[None] for key, values in read_inputs(video, view, predictor.wanted.inputs).items()}
            expected = predictor(streams, names=["clip"]).probabilities[0]
            assert probabilities == pytest.approx(expected, abs=1e-5)
    whole = videokd.predict(path, students, num_segments=3, transcode="never")
    named = dict(zip(found.class_names, found.whole, strict=True))
    assert named == pytest.approx({label.name: label.probability for label in whole.labels}, abs=1e-5)
    assert found.probabilities.std(axis=0).max() > 1e-4  # the windows differ, so that a mistake would show


def test_the_file_is_opened_once_and_read_forward(
    make_clip: MakeClip, students: Students, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, read, kept_at_once = [], [], []
    open_container, read_inputs_once = container.open_container, windows.read_inputs

    def counting(*given: Any) -> Any:
        opened.append(given[0])
        return open_container(*given)

    def noting(video: Any, view: View, inputs: Any) -> Any:
        read.extend(view.segments)
        kept_at_once.append(len(view.segments))
        return read_inputs_once(video, view, inputs)

    monkeypatch.setattr(container, "open_container", counting)
    monkeypatch.setattr(windows, "read_inputs", noting)
    found = predict_windows(make_clip(num_frames=120), students, window_seconds=1, stride_seconds=0.2, num_segments=4)
    assert len(found.spans) == 1 + 19  # 4.8 s
    assert len(opened) == 1
    assert all(first < second for first, second in itertools.pairwise(read))  # in file order, each once
    assert max(kept_at_once) <= 16
    assert min(found.seconds["read"], found.seconds["network"]) > 0


def test_a_short_clip_and_one_that_must_be_transcoded(make_clip: MakeClip, students: Students) -> None:
    short = predict_windows(make_clip(num_frames=12), students, window_seconds=5)
    assert np.array(short.spans) == pytest.approx(np.array([(0, 0.48)]))
    assert short.probabilities[0] == pytest.approx(short.whole, abs=1e-6)
    moving = make_clip("mjpeg", container="avi", pixel_format="yuvj420p", num_frames=50)
    transcoded = predict_windows(moving, students, window_seconds=1, stride_seconds=0.5)
    assert (transcoded.route, len(transcoded.spans)) == ("transcoded", 3)
    assert transcoded.seconds["transcode"] > 0
    assert np.allclose(transcoded.probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_seconds": 0}, r"window_seconds is 0 \(accepted: a number above 0\)"),
        ({"stride_seconds": float("nan")}, "stride_seconds is nan"),
        ({"num_segments": 0}, "num_segments is 0"),
        ({"window_seconds": 1e-6, "stride_seconds": 1e-6}, "windows .accepted: at most 100000"),
    ],
)
def test_impossible_windows_are_refused(
    settings: dict[str, Any], message: str, make_clip: MakeClip, students: Students
) -> None:
    with pytest.raises(ConfigError, match=message):
        predict_windows(make_clip(), students, **settings)
