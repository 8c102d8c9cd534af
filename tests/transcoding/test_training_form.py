"""Which files have the training form, and which must be transcoded to be read as in training."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.bitstream.test_orientation import write_with_matrix
from tests.codec.test_traps import write as write_stamped
from tests.conftest import MakeClip, moving_texture
from videokd.bitstream.orientation import Orientation
from videokd.codec.reader import open_video
from videokd.errors import ConfigError, DecodeError
from videokd.preparation.prepare_clip import encoding_settings
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.training_form import FileForm, TrainingForm, form_of
from videokd.transcoding.transcode import encode, transcode

SIDE = 96
KNOWN = {"encoding": {"codec": "mpeg4", "gop": 12, "quality": 3, "short_side": SIDE, "frame_rate": None}}
TRAINED = TrainingForm.from_settings({**KNOWN, "frame_rates": [25.0, 25.0]})


def differences(path: Path, trained: TrainingForm = TRAINED) -> str:
    """All of them, as text; GOPs only where the rest is the same, as `predict` does."""
    found = trained.differences(form_of(path))
    if not found:
        with open_video(path) as video:
            found = trained.gop_differences(video.index)
    return ", ".join(found)


def write(
    path: Path, *, rate: float = 25, encoding: Encoding | None = None, size: tuple[int, int] = (128, SIDE)
) -> Path:
    encode(iter(moving_texture(30, size[1], size[0])), path, frame_rate=rate, encoding=encoding)
    return path


@pytest.mark.parametrize("codec", ["mpeg4", "h264"])
@pytest.mark.parametrize("num_frames", [5, 12, 30])
def test_prepared_clips_are_read_as_they_are(codec: str, num_frames: int, make_clip: MakeClip, tmp_path: Path) -> None:
    source = make_clip("libx264", num_frames=num_frames, b_frames=2, gop=250)
    encoding = Encoding(codec=codec, short_side=SIDE)  # type: ignore[arg-type]
    transcode(source, tmp_path / "prepared.mp4", encoding)
    settings = {"encoding": {"codec": codec, "gop": 12, "short_side": SIDE}, "frame_rates": [25.0, 25.0]}
    assert differences(tmp_path / "prepared.mp4", TrainingForm.from_settings(settings)) == ""


FORMS = {
    "x264, GOP 12": (("libx264", "mp4", {"gop": 12}), "codec h264"),
    "x264 defaults": (("libx264", "mp4", {"gop": 250, "b_frames": 3}), "codec h264"),
    "longer GOPs": (("mpeg4", "avi", {"gop": 13}), "GOPs of 13 to 17|GOPs of "),
    "shorter GOPs": (("mpeg4", "avi", {"gop": 6}), "GOPs of 6 to 6"),
    "B-frames": (("mpeg4", "avi", {"gop": 12, "b_frames": 2}), "B-frames"),
    "another codec with vectors": (("mpeg2video", "mpg", {"gop": 12}), "codec mpeg2video"),
    "no vectors": (("mjpeg", "avi", {"pixel_format": "yuvj420p"}), "codec mjpeg"),
    "enlarged": (("mpeg4", "mp4", {"size": (512, 384)}), "size 512×384"),
    "upright": (("mpeg4", "mp4", {"size": (96, 128)}), ""),
}


@pytest.mark.parametrize("name", FORMS)
def test_another_form_is_transcoded(name: str, make_clip: MakeClip) -> None:
    (codec, container, options), expected = FORMS[name]
    found = differences(make_clip(codec, container=container, **options))
    assert any(part in found for part in expected.split("|")) if expected else found == ""


@pytest.mark.parametrize(
    ("rate", "resample", "gop"),
    [
        (12.5, None, 6),
        (15, None, 7),
        (1, None, 2),
        (50, 25, 12),
        (120, 25, 12),
        (29.97, 25, 12),
        (25, None, None),
        (25.2, None, None),
    ],
)
def test_gops_last_as_long_as_in_training(rate: float, resample: float | None, gop: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", rate=rate)
    assert bool(differences(path)) == (gop is not None)
    encoding = TRAINED.encoding_for(form_of(path).frame_rate)
    assert (encoding.resample, encoding.gop) == (resample, gop or 12)


@pytest.mark.parametrize(
    ("rate", "resample", "gop"),
    [(12, None, 6), (24, None, 12), (27, None, 12), (30, None, 12), (60, 30, 12), (0, None, 12)],
)
def test_rates_within_those_of_training_stay(rate: float, resample: float | None, gop: int) -> None:
    encoding = TrainingForm.from_settings({**KNOWN, "frame_rates": [24.0, 30.0]}).encoding_for(rate)
    assert (encoding.resample, encoding.gop) == (resample, gop)


def test_clips_of_a_resampled_dataset_are_resampled() -> None:
    trained = TrainingForm.from_settings({"encoding": {**KNOWN["encoding"], "resample": 25}, "frame_rates": [25, 25]})
    assert {trained.encoding_for(rate).resample for rate in (0, 12.5, 25, 50)} == {25}


def test_orientation_and_pixel_aspect_are_applied(tmp_path: Path) -> None:
    trained = TrainingForm.from_settings({"encoding": {**KNOWN["encoding"], "short_side": 48}})
    for matrix in ((0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1)):
        assert differences(write_with_matrix(tmp_path / "in.mp4", matrix), trained) == "orientation"
    assert differences(write_with_matrix(tmp_path / "in.mp4", (1, 0, 0, 1)), trained) == ""
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert differences(tmp_path / "wide.mp4", trained) == "pixel aspect 4/3"


def test_students_of_kept_clips_read_what_gives_vectors(make_clip: MakeClip) -> None:
    kept = TrainingForm.from_settings({**KNOWN, "keep": True})
    assert differences(make_clip("libx264", gop=250, b_frames=2), kept) == ""
    assert differences(make_clip("mjpeg", container="avi", pixel_format="yuvj420p"), kept) == "codec mjpeg"


def test_h264_of_earlier_versions_keeps_its_form() -> None:
    """Manifests and students from before there was a choice do not name the tune."""
    known = {"codec": "h264", "gop": 12, "quality": 18, "short_side": SIDE}
    for settings, tune in ((known, "none"), (known | {"tune": "fastdecode"}, "fastdecode")):
        assert TrainingForm.from_settings({"encoding": settings}).encoding_for(25).tune == tune
    assert "tune" not in encoding_settings(Encoding("h264"))
    assert encoding_settings(Encoding("h264", tune="fastdecode"))["tune"] == "fastdecode"
    with pytest.raises(ConfigError, match="tune 'film'"):
        TrainingForm.from_settings({"encoding": known | {"tune": "film"}})


@pytest.mark.parametrize(
    ("changed", "similar"),
    [
        ({}, True),
        ({"codec": "h264"}, True),
        ({"codec": "hevc"}, False),
        ({"width": 160, "height": 120}, True),
        ({"width": 162, "height": 122}, False),
        ({"width": 96, "height": 72}, True),
        ({"width": 94, "height": 70}, False),
        ({"pixel_format": "yuvj420p"}, True),
        ({"pixel_format": "yuv420p10le"}, False),
        ({"pixel_aspect": Fraction(4, 3)}, False),
        ({"orientation": Orientation(transposed=True)}, False),
        ({"frame_rate": 50.0}, True),
    ],
)
def test_similar_forms(changed: dict, similar: bool) -> None:
    form = replace(FileForm("mpeg4", 128, 96, "yuv420p", Fraction(1), Orientation(), 25.0), **changed)
    assert TRAINED.is_similar(form) is similar
    kept = TrainingForm.from_settings({**KNOWN, "keep": True})
    assert not kept.is_similar(form)
    resampled = {"encoding": {**KNOWN["encoding"], "resample": 25}}
    assert TrainingForm.from_settings(resampled).is_similar(form) is (similar and form.frame_rate == 25)


def test_where_nothing_is_known_any_size_and_codec_with_vectors_is_read(make_clip: MakeClip) -> None:
    unknown = TrainingForm.from_settings({})
    assert differences(make_clip("libx264", gop=12, options=(("refs", "1"), ("sc_threshold", "0"))), unknown) == ""
    assert "GOPs" in differences(make_clip("mpeg4", gop=30), unknown)


@pytest.mark.parametrize(
    "damaged", [{"encoding": {"gop": "x"}}, {"encoding": "x"}, {"frame_rates": ["x"]}, {"frame_rates": 3}]
)
def test_damaged_settings(damaged: dict) -> None:
    with pytest.raises(ConfigError, match=r"how the clips were encoded is damaged .* Export the students again"):
        TrainingForm.from_settings(damaged)


def test_files_without_a_picture(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="is not there"):
        form_of(tmp_path / "none.mp4")


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi", "ts"])
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(
    ("stamps", "rate"),
    [
        ([0, 1, 2, 3, *range(6, 84, 3)], 29 * 25 / 81),  # at 25, then every third picture
        ([*range(15), *range(2515, 2530)], 25),  # a recording that was interrupted for 100 s
        ([*range(30)], 25),
    ],
)
def test_variable_rates_are_measured(
    tmp_path: Path, suffix: str, b_frames: int, stamps: list[int], rate: float
) -> None:
    """Matroska states the rate that its writer was given, whatever the timestamps say."""
    path = write_stamped(
        tmp_path / f"clip.{suffix}",
        moving_texture(30, 96, 128),
        codec="mpeg4",
        stamps=stamps,
        context={"max_b_frames": b_frames},
    )
    assert form_of(path).frame_rate == pytest.approx(rate, rel=0.03)  # AVI has times of decoding only
    assert transcode(path, tmp_path / "out.mp4").frame_rate == form_of(path).frame_rate
