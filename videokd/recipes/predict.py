"""`videokd predict`: names the action in videos; `videokd.predict` in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from videokd.errors import ConfigError, DataError, DecodeError
from videokd.messages import give, say
from videokd.prediction.loading import load_predictor
from videokd.prediction.predict import predict
from videokd.prediction.prediction import prediction_lines
from videokd.prediction.reading import Transcode
from videokd.recipes.command_line import parse
from videokd.runs.settings import Device, PrecisionName


@dataclass(frozen=True)
class Predict:
    """Names the action in videos.

    Args:
        files: the videos.
        students: folder of `videokd export`; or its students.onnx, which ONNX Runtime computes without PyTorch; or hf://owner/name of the
            Hugging Face Hub (needs the extra videokd[hub]).
        top: how many labels to print.
        num_segments: places looked at in each video; by default 8, or as many as in training where students see their order.
        transcode: bring a video into the form that the students learned from: never, always, or (auto) where its form is another:
            codec, GOPs, B-frames, size, pixel format and aspect, orientation, or frame rate. If some student sees pictures (iframe,
            rgb), auto reads a similar file faster, as it is: with motion vectors, upright, at most a quarter larger or smaller. Long
            GOPs of a file that is not transcoded are cut to the length of training.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; for students that
            were exported with `--exits`. By default every student computes its whole network.
        format: of what is printed.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is tf32 on a GPU that has it, fp32 elsewhere.
    """

    files: tuple[str, ...]
    students: str
    top: int = 5
    num_segments: int | None = None
    transcode: Transcode = "auto"
    exit_threshold: float | None = None
    format: Literal["table", "json", "csv"] = "table"
    device: Device = "auto"
    precision: PrecisionName = "auto"


def main(arguments: Sequence[str]) -> None:
    """The verb: prints the predictions, then names the files that could not be read."""
    settings = parse(Predict, arguments, verb="predict", positional=("files",))
    students = load_predictor(
        settings.students,
        device=settings.device,
        precision=settings.precision,
        exit_threshold=settings.exit_threshold,
    )
    predictions, failures = [], []
    for file in tqdm(settings.files, unit="video", disable=None if len(settings.files) > 1 else True):
        try:
            predictions.append(
                predict(
                    file, students, top=settings.top, num_segments=settings.num_segments, transcode=settings.transcode
                )
            )
        except (DecodeError, DataError) as error:
            failures.append(error)
        except ConfigError:  # such as too little memory: what is predicted is not lost
            if predictions:
                give(prediction_lines(predictions, layout=settings.format))
            raise
    give(prediction_lines(predictions, layout=settings.format))
    if len(settings.files) == len(failures) == 1:
        raise failures[0]
    for failure in failures:
        say(f"videokd: {failure}")
    if failures:
        raise DataError(f"{len(failures)} of {len(settings.files)} files could not be read; each is named above.")
