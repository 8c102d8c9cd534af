"""`videokd.predict`: the action in one video."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from videokd.codec.container import MOTION_CODECS
from videokd.codec.reader import VideoReader, open_video
from videokd.codec.training_form import TrainingForm, form_of
from videokd.codec.transcode import transcode as write_transcoded
from videokd.datasets.view import apply_crop, central_crop, read_pictures, sample_positions
from videokd.distill.fusion import fuse
from videokd.errors import ConfigError, DecodeError
from videokd.models.students import Students
from videokd.models.students_file import load_students
from videokd.training.device import Precision
from videokd.training.validate import check_logits
from videokd.types import STREAMS

Transcode = Literal["auto", "always", "never"]
_NUM_SEGMENTS = 8


@dataclass(frozen=True)
class RankedLabel:
    """A class that a video may show.

    Args:
        name: of the class.
        probability: 0 to 1.
    """

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the students say of one video.

    Args:
        path: of the video.
        labels: the likeliest first.
        seconds: {"transcode", "read", "network"}: what it took; transcoding only where the file needed it.
        exits: {student: the exit it left by}, "deepest" for the whole network; empty without a threshold.
    """

    path: str
    labels: tuple[RankedLabel, ...]
    seconds: dict[str, float]
    exits: dict[str, str] = field(default_factory=dict)


def predict(
    path: str | os.PathLike[str],
    students: Students | str | os.PathLike[str],
    *,
    top: int = 5,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
    exit_threshold: float | None = None,
    precision: Precision | None = None,
) -> Prediction:
    """Names the action in one video.

    Args:
        path: a file in any container and codec that FFmpeg reads.
        students: from `videokd.load_students`, or the folder, which is then loaded at each call.
        top: how many labels.
        num_segments: places looked at, one crop each; by default 8, or as many as in training where students see their order.
        transcode: bring the video into the form that the students learned from: never, always, or (auto) where its form is
            another: codec, GOPs, B-frames, size, pixel format and aspect, orientation, or frame rate.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; their logits are then
            fused as ever. None: all go through the whole network.
        precision: of the networks; by default fp32 on the CPU.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: a number is out of range, or there is a threshold and the students have no exits.
    """
    if top < 1 or (num_segments is not None and num_segments < 1):
        raise ConfigError(f"top is {top}, num_segments {num_segments} (accepted: 1 or more). Correct the settings.")
    if not isinstance(students, Students):
        students = load_students(students)
    precision = precision or Precision("fp32", torch.device("cpu"))
    streams, seconds = read_streams(path, students, num_segments=num_segments, transcode=transcode)
    started = time.perf_counter()
    left_by: dict[str, tuple[str, ...]] = {}
    with torch.no_grad(), precision.autocast():
        streams = {name: values.to(precision.device) for name, values in streams.items()}
        if exit_threshold is None:
            logits = students.eval().logits(streams)
        else:
            logits, left_by = students.eval().early_logits(streams, threshold=exit_threshold)
    logits = {name: values.float() for name, values in logits.items()}
    check_logits(logits, video_ids=[str(path)])
    fused = fuse(logits, students.weights, space=students.space)[0].softmax(0).cpu()  # type: ignore[arg-type]
    seconds["network"] = time.perf_counter() - started
    best = fused.topk(min(top, len(students.class_names)))
    labels = tuple(
        RankedLabel(students.class_names[i], p) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)
    )
    return Prediction(str(path), labels, seconds, {name: exit for name, (exit,) in left_by.items()})


def read_streams(
    path: str | os.PathLike[str],
    students: Students,
    *,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """A video as the students see it; arguments and errors as for `predict`.

    Returns:
        {stream: uint8 [1, S, C, H, W]}; {"transcode", "read"}: seconds.
    """
    started = time.perf_counter()
    num_segments = num_segments or (students.num_segments if students.sees_order else _NUM_SEGMENTS)
    if transcode not in get_args(Transcode):
        raise ConfigError(f"transcode {transcode!r} (accepted: {', '.join(get_args(Transcode))}). Choose one of these.")
    streams = None if transcode == "always" else _read_as_it_is(path, students, num_segments, transcode)
    if streams is not None:
        return streams, {"transcode": 0.0, "read": time.perf_counter() - started}
    with tempfile.TemporaryDirectory(prefix="videokd-") as folder:
        target = Path(folder) / "clip.mp4"
        form = TrainingForm.from_settings(students.encoding)
        write_transcoded(Path(path), target, form.encoding_for(form_of(path).frame_rate))
        transcoded = time.perf_counter()
        with open_video(target) as video:
            streams = _sampled(video, students, num_segments=num_segments)
    return streams, {"transcode": transcoded - started, "read": time.perf_counter() - transcoded}


def _read_as_it_is(
    path: str | os.PathLike[str], students: Students, num_segments: int, transcode: Transcode
) -> dict[str, torch.Tensor] | None:
    """{stream: uint8 [1, S, C, H, W]}; None where the file must be transcoded first."""
    if transcode == "auto":
        try:
            as_in_training = TrainingForm.from_settings(students.encoding)
            if as_in_training.differences(form_of(path)):
                return None
            with open_video(path) as video:
                if as_in_training.gop_differences(video.index):
                    return None
                return _sampled(video, students, num_segments=num_segments)
        except (
            DecodeError
        ):  # what cannot be read at random may still play; transcoding says what is wrong with it otherwise
            return None
    with open_video(path) as video:
        if video.codec not in MOTION_CODECS and max(STREAMS[name].first_position for name in students.streams):
            raise DecodeError(
                f"{video.path} is {video.codec}, which exports no motion vectors (accepted: {', '.join(MOTION_CODECS[:5])}, …). "
                "Pass `--transcode auto`."
            )
        return _sampled(video, students, num_segments=num_segments)


def _sampled(video: VideoReader, students: Students, *, num_segments: int) -> dict[str, torch.Tensor]:
    """{stream: uint8 [1, S, C, H, W]}."""
    names, crop = students.streams, central_crop(video.width, video.height)
    positions = sample_positions(
        [gop.num_positions for gop in video.gops],
        num_segments=num_segments,
        first_position=max(STREAMS[name].first_position for name in names),
    )
    pictures = read_pictures(video, names, positions)
    cropped = {
        name: apply_crop(pictures[name], crop, spec=STREAMS[name], size=students.input_size)  # [S, C, H, W]
        for name in names
    }
    return {name: torch.from_numpy(values)[None] for name, values in cropped.items()}
