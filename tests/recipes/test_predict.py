"""`videokd.predict`: how a file is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import videokd
from tests.conftest import MakeClip
from tests.predictions import streams_for
from videokd.__main__ import main
from videokd.codec import container
from videokd.codec.reader import open_video
from videokd.datasets.view import apply_crop, central_crop
from videokd.errors import DataError, DecodeError
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.students_file import save_students
from videokd.prediction.reading import Transcode
from videokd.prediction.torch_predictor import TorchPredictor
from videokd.types import STREAMS


@pytest.fixture
def students() -> Students:
    specs = {stream: NetworkSpec((stream,), "test_resnet", 3, 32) for stream in ("iframe", "motion")}
    return build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=0).eval()


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
    assert [str(source) for source in opened] == [str(path)]
    assert prediction.seconds["transcode"] == 0
    assert min(prediction.seconds["read"], prediction.seconds["network"]) > 0


def test_segments_are_the_middles_of_the_clip(make_clip: MakeClip, students: Students) -> None:
    path = make_clip("mpeg4", num_frames=24)
    streams, _, _ = streams_for(students, path, num_segments=2)
    assert {name: tuple(values.shape) for name, values in streams.items()} == {
        "iframe": (1, 2, 3, 32, 32),
        "motion": (1, 2, 2, 32, 32),
    }
    with open_video(path) as video:
        iframe = video.read(gop=1, position=6, streams=("iframe",)).iframe
    assert iframe is not None
    middle = torch.from_numpy(iframe[6:90, 22:106].copy()).permute(2, 0, 1)  # 7/8 of 96 pixels
    seen = torch.nn.functional.interpolate(middle[None].float(), (32, 32), mode="bilinear", antialias=True)
    assert (streams["iframe"][0, 1].float() - seen[0]).abs().max() <= 1


def only_motion() -> Students:
    specs = {"motion": NetworkSpec(("motion",), "test_resnet", 3, 32)}
    return build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=0).eval()


@pytest.mark.parametrize("transcode", ["auto", "never"])
def test_long_gops_are_cut(transcode: Transcode, make_clip: MakeClip, students: Students) -> None:
    path = make_clip("mpeg4", num_frames=48, gop=250)
    streams, seconds, route = streams_for(students, path, num_segments=4, transcode=transcode)
    assert (route, seconds["transcode"]) == ("cut GOPs", 0)
    with open_video(path) as video:  # the middles of four spans, one of each 12 frames
        frames = [video.read(gop=0, position=at, streams=("frame",)).frame for at in (0, 12, 24, 36)]
        uncut = video.read(gop=0, position=5, streams=("motion",)).motion
        video.cut_gops(12)
        moved = [video.read(gop=gop, position=5, streams=("motion",)).motion for gop in range(4)]
    assert np.array_equal(moved[0], uncut)
    for at, (frame, motion) in enumerate(zip(frames, moved, strict=True)):
        for name, picture in (("iframe", frame), ("motion", motion)):
            assert picture is not None
            expected = apply_crop([picture], central_crop(128, 96), spec=STREAMS[name], size=32)[0]
            assert np.array_equal(streams[name][0, at].numpy(), expected)


def test_students_of_motion_alone_see_long_gops_transcoded(make_clip: MakeClip, students: Students) -> None:
    path = make_clip("mpeg4", num_frames=30, gop=30)
    _, seconds, route = streams_for(only_motion(), path)
    assert (route, seconds["transcode"] > 0) == ("transcoded", True)
    assert streams_for(only_motion(), path, transcode="never")[2] == "cut GOPs"
    assert streams_for(students, path, transcode="always")[2] == "transcoded"
    assert streams_for(only_motion(), make_clip("mpeg4", num_frames=24))[2] == "as it is"


@pytest.mark.parametrize(
    ("clip", "route"),
    [
        ({"codec": "mpeg4", "num_frames": 24}, "as it is"),
        ({"codec": "mpeg4", "gop": 250, "size": (120, 80)}, "cut GOPs"),
        ({"codec": "libx264", "gop": 250, "b_frames": 3}, "cut GOPs"),
        ({"codec": "libx264", "gop": 12, "options": (("refs", "1"), ("sc_threshold", "0"))}, "as it is"),
        ({"codec": "mpeg4", "gop": 6, "size": (120, 80)}, "as it is"),
        ({"codec": "mpeg4", "gop": 5}, "transcoded"),
        ({"codec": "mpeg4", "gop": 1}, "transcoded"),
        ({"codec": "mpeg4", "gop": 250, "size": (256, 192)}, "transcoded"),
        ({"codec": "mpeg4", "gop": 250, "size": (64, 48)}, "transcoded"),
        ({"codec": "mjpeg", "container": "avi", "pixel_format": "yuvj420p"}, "transcoded"),
        ({"codec": "libx264", "gop": 250, "pixel_format": "yuv444p"}, "transcoded"),
    ],
)
def test_similar_files_are_not_transcoded(
    clip: dict[str, Any], route: str, make_clip: MakeClip, students: Students
) -> None:
    students.encoding = {"encoding": {"codec": "mpeg4", "gop": 12, "short_side": 96}, "frame_rates": [25.0, 25.0]}
    prediction = videokd.predict(make_clip(**clip), students)
    assert (prediction.route, prediction.seconds["transcode"] > 0) == (route, route == "transcoded")


def test_clips_of_a_kept_dataset_keep_their_gops(make_clip: MakeClip, students: Students) -> None:
    students.encoding = {"encoding": {"codec": "mpeg4", "gop": 12}, "keep": True, "frame_rates": [25.0, 25.0]}
    path = make_clip("libx264", gop=250, b_frames=3)
    assert [streams_for(students, path, transcode=mode)[2] for mode in ("auto", "never")] == ["as it is"] * 2


@pytest.mark.parametrize("rates", [[12.5, 12.5], [50.0, 50.0], [24.0, 30.0]])
def test_gops_are_cut_to_last_as_long_as_in_training(
    rates: list[float], make_clip: MakeClip, students: Students
) -> None:
    """Of training clips at 12.5 a second, 6 pictures last as long as 12 of this file; at 50, 24."""
    gop = {12.5: 6, 50.0: 24, 24.0: 12}[rates[0]]
    path = make_clip("mpeg4", num_frames=48, gop=250)
    settings = {"encoding": {"codec": "mpeg4", "gop": gop, "short_side": 96}, "frame_rates": rates}
    expected = streams_for(students, path, num_segments=4, transcode="never")[0]  # GOPs of 12, as by default
    students.encoding = settings
    streams, _, route = streams_for(students, path, num_segments=4)
    assert route == "cut GOPs"
    assert all(torch.equal(streams[name], values) for name, values in expected.items())


@pytest.mark.parametrize("names", [("rgb",), ("rgb", "motion")])
def test_decoded_frames_are_those_at_the_sampled_positions(make_clip: MakeClip, names: tuple[str, ...]) -> None:
    path = make_clip("mpeg4", num_frames=24)
    specs = {"student": NetworkSpec(names, "test_resnet", 3, 32)}
    seeing = build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=0).eval()
    streams, _, _ = streams_for(seeing, path, num_segments=2)
    assert {name: values.shape[1] for name, values in streams.items()} == dict.fromkeys(names, 2)
    with open_video(path) as video:
        frame = video.read(gop=1, position=5, streams=("frame",)).frame  # the middle of frames 12 to 23
    assert frame is not None
    middle = torch.from_numpy(frame[6:90, 22:106]).permute(2, 0, 1)
    seen = torch.nn.functional.interpolate(middle[None].float(), (32, 32), mode="bilinear", antialias=True)
    assert (streams["rgb"][0, 1].float() - seen[0]).abs().mean() < 2
    other = torch.nn.functional.interpolate(middle.flip(2)[None].float(), (32, 32), mode="bilinear", antialias=True)
    assert (streams["rgb"][0, 1].float() - other[0]).abs().mean() > 5
    assert sum(label.probability for label in videokd.predict(path, seeing).labels) == pytest.approx(1, abs=1e-5)


def test_decoded_frames_of_a_transcoded_file(make_clip: MakeClip) -> None:
    specs = {"student": NetworkSpec(("rgb", "motion"), "test_resnet", 3, 32)}
    seeing = build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=0).eval()
    clip = make_clip("mjpeg", container="avi", pixel_format="yuvj420p")
    assert videokd.predict(clip, seeing).seconds["transcode"] > 0


@pytest.mark.parametrize(("shifted", "expected"), [(False, 8), (True, 3)])
def test_students_that_see_the_order_see_as_many_segments_as_in_training(
    shifted: bool, expected: int, make_clip: MakeClip
) -> None:
    spec = {"student": NetworkSpec(("motion",), "test_resnet", 3, 32, temporal_shift=shifted)}
    seeing = build_students(spec, PredictionSpec(("wave", "clap", "throw"), 3), seed=0).eval()
    streams, _, _ = streams_for(seeing, make_clip("mpeg4"))
    assert streams["motion"].shape[1] == expected


def cut_inside_a_gop(source: Path, target: Path) -> Path:
    """A copy whose first packets are P-frames: it plays, but no I-frame is shown."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copied = after.add_stream_from_template(stream)
        for number, packet in enumerate(before.demux(stream)):
            if packet.size and number:
                packet.stream = copied
                after.mux(packet)
    return target


def test_what_cannot_be_read_at_random_is_transcoded(make_clip: MakeClip, students: Students, tmp_path: Path) -> None:
    source = make_clip("mpeg4", container="avi", gop=250)
    cut = cut_inside_a_gop(source, tmp_path / "cut.avi")
    with pytest.raises(DecodeError):
        open_video(cut)
    assert videokd.predict(cut, students).seconds["transcode"] > 0


def test_students_may_be_named_by_their_folder(make_clip: MakeClip, students: Students, tmp_path: Path) -> None:
    save_students(students, tmp_path / "students")
    path = make_clip("mpeg4")
    named = videokd.predict(path, tmp_path / "students")
    assert named.labels == videokd.predict(path, students).labels
    assert videokd.predict(path, str(tmp_path / "students")).labels == named.labels
    with pytest.raises(DataError, match="nowhere"):
        videokd.predict(path, "nowhere")


def test_a_bad_file_does_not_stop_the_others(
    make_clip: MakeClip, students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_students(students, tmp_path / "students")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    good = str(make_clip("mpeg4"))
    bad = [str(tmp_path / name) for name in ("text.mp4", "empty.mp4", "folder.mp4", "none.mp4")]
    arguments = ["--students", str(tmp_path / "students"), "--format", "json"]
    assert main(["predict", bad[0], good, *bad[1:], good, *arguments]) == 2
    written = capsys.readouterr()
    assert [prediction["path"] for prediction in json.loads(written.out)] == [good, good]
    assert all(sum(name in line for line in written.err.splitlines()) == 1 for name in bad)
    assert "4 of 6 files could not be read" in written.err.splitlines()[-1]


@pytest.mark.parametrize("setting", [{"top": "5"}, {"top": 1.5}, {"num_segments": 1.5}, {"num_segments": 10**6}])
def test_numbers_that_are_not_whole_or_too_large(make_clip, setting: dict) -> None:
    (name,) = setting
    with pytest.raises(videokd.ConfigError, match=rf"{name} is .* \(accepted: a whole number, 1 to"):
        videokd.predict(make_clip("mpeg4"), "not read", **setting)


class _Reached(Exception):
    pass


def test_streams_go_to_the_device_of_the_students(make_clip: MakeClip, students: Students) -> None:
    """Tensors on `meta` have no values, so it is only seen that the first layer gets them."""

    def first_layer(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        raise _Reached(inputs[0].device.type)

    predictor = TorchPredictor(students)  # before, because it refuses weights without values
    students.to("meta").get_submodule("members.iframe.backbone.conv1").register_forward_pre_hook(first_layer)
    with pytest.raises(_Reached, match="^meta$"):
        videokd.predict(make_clip("mpeg4"), predictor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_compute_in_the_precision_of_the_students(
    make_clip: MakeClip, students: Students, dtype: torch.dtype
) -> None:
    path = make_clip("mpeg4")
    expected = {label.name: label.probability for label in videokd.predict(path, students).labels}
    found = {label.name: label.probability for label in videokd.predict(path, students.to(dtype)).labels}
    assert found == pytest.approx(expected, abs=0.02)
