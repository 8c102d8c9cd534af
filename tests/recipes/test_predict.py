"""`videokd.predict`: how a file is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import videokd
from tests.conftest import MakeClip
from videokd.codec import container
from videokd.codec.streams import open_video
from videokd.models.backbone import NetworkSpec
from videokd.models.students import Students, build_students
from videokd.recipes.predict import read_streams


@pytest.fixture
def students() -> Students:
    specs = {stream: NetworkSpec((stream,), "test_resnet", 3, 32) for stream in ("iframe", "motion")}
    return build_students(specs, class_names=("wave", "clap", "throw"), num_segments=2, seed=0).eval()


def test_a_file_is_opened_and_indexed_once(
    make_clip: MakeClip, students: Students, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip("mpeg4")
    opened = []
    open_container = container.open_container

    def counting(*given: object) -> object:
        opened.append(given[0])
        return open_container(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(container, "open_container", counting)
    prediction = videokd.predict(path, students, num_segments=2)
    assert opened == [path]
    assert prediction.seconds["transcode"] == 0
    assert min(prediction.seconds["read"], prediction.seconds["network"]) > 0


def test_segments_are_the_middles_of_the_clip(make_clip: MakeClip, students: Students) -> None:
    path = make_clip("mpeg4", num_frames=24)
    streams, _ = read_streams(path, students, num_segments=2)
    assert {name: tuple(values.shape) for name, values in streams.items()} == {
        "iframe": (1, 2, 3, 32, 32),
        "motion": (1, 2, 2, 32, 32),
    }
    with open_video(path) as video:
        iframe = video.read(gop=1, position=6, streams=("iframe",)).iframe
    assert iframe is not None
    middle = torch.from_numpy(iframe[6:90, 22:106]).permute(2, 0, 1)  # 7/8 of 96 pixels
    seen = torch.nn.functional.interpolate(middle[None].float(), (32, 32), mode="bilinear", antialias=True)
    assert (streams["iframe"][0, 1].float() - seen[0]).abs().max() <= 1


def test_long_gops_are_transcoded_where_that_is_allowed(
    make_clip: MakeClip, students: Students, tmp_path: Path
) -> None:
    path = make_clip("mpeg4", num_frames=30, gop=30)
    as_it_is, seconds = read_streams(path, students, num_segments=2, transcode_to_training_form="never")
    transcoded, longer = read_streams(path, students, num_segments=2)
    assert seconds["transcode"] == 0 < longer["transcode"]
    assert as_it_is["iframe"].shape == transcoded["iframe"].shape
    assert torch.equal(as_it_is["iframe"][0, 0], as_it_is["iframe"][0, 1])  # one GOP has one I-frame
    assert not torch.equal(transcoded["iframe"][0, 0], transcoded["iframe"][0, 1])
