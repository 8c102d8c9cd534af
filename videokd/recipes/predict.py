"""`videokd predict`: names the action in videos; `videokd.predict` in Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from tqdm import tqdm

from videokd.errors import DataError, DecodeError
from videokd.evaluation.prediction import Prediction, Transcode, predict
from videokd.files import csv_text
from videokd.messages import give, say
from videokd.models.students_file import load_students
from videokd.recipes.command_line import parse
from videokd.training.device import Precision, pick_device
from videokd.training.settings import Device, PrecisionName


@dataclass(frozen=True)
class Predict:
    """Names the action in videos.

    Args:
        files: the videos.
        students: folder of `videokd export`.
        top: how many labels.
        num_segments: places looked at in each video; by default 8, or as many as in training where students see their order.
        transcode: bring a video into the form that the students learned from: never, always, or (auto) where its form is another:
            codec, GOPs, B-frames, size, pixel format and aspect, orientation, or frame rate.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; for students that
            were exported with `--exits`. Without it all go through the whole network.
        format: of what is printed.
        device: auto takes CUDA where there is one.
        precision: fp32, bf16, or fp16 (CUDA only).
    """

    files: tuple[str, ...]
    students: str
    top: int = 5
    num_segments: int | None = None
    transcode: Transcode = "auto"
    exit_threshold: float | None = None
    format: Literal["table", "json", "csv"] = "table"
    device: Device = "auto"
    precision: PrecisionName = "fp32"


def main(arguments: Sequence[str]) -> None:
    """The verb: what can be read is printed, then what cannot is named."""
    settings = parse(Predict, arguments, verb="predict", positional=("files",))
    precision = Precision(settings.precision, pick_device(settings.device))
    students = load_students(settings.students).to(precision.device)
    predictions, failures = [], []
    for file in tqdm(settings.files, unit="video", disable=None if len(settings.files) > 1 else True):
        try:
            predictions.append(
                predict(
                    file,
                    students,
                    top=settings.top,
                    num_segments=settings.num_segments,
                    transcode=settings.transcode,
                    exit_threshold=settings.exit_threshold,
                    precision=precision,
                )
            )
        except (DecodeError, DataError) as error:
            failures.append(error)
    give(_FORMATS[settings.format](predictions))
    if len(settings.files) == len(failures) == 1:
        raise failures[0]
    for failure in failures:
        say(f"videokd: {failure}")
    if failures:
        raise DataError(f"{len(failures)} of {len(settings.files)} files could not be read; each is named above.")


def _as_table(predictions: Sequence[Prediction]) -> list[str]:
    lines = []
    for prediction in predictions:
        seconds = sum(prediction.seconds.values())
        parts = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in prediction.seconds.items())
        left_by = "".join(f", {student} by {name}" for student, name in prediction.exits.items())
        lines.append(f"{prediction.path}  ({seconds:.3f} s: {parts}{left_by})")
        lines += [f"  {100 * label.probability:5.1f} %  {label.name}" for label in prediction.labels]
    return lines


def _as_json(predictions: Sequence[Prediction]) -> list[str]:
    return json.dumps([asdict(prediction) for prediction in predictions], indent=1).split("\n")


def _as_csv(predictions: Sequence[Prediction]) -> list[str]:
    students = list(predictions[0].exits) if predictions else []
    columns = ["path", "rank", "label", "probability", "transcode_seconds", "read_seconds", "network_seconds"]
    rows: list[list[object]] = [[*columns, *(f"exit_{student}" for student in students)]]
    for prediction in predictions:
        times = [f"{value:.4f}" for value in prediction.seconds.values()]
        for rank, label in enumerate(prediction.labels, start=1):
            rows.append(
                [prediction.path, rank, label.name, f"{label.probability:.6f}", *times, *prediction.exits.values()]
            )
    return csv_text(rows).removesuffix("\n").split("\n")


_FORMATS = {"table": _as_table, "json": _as_json, "csv": _as_csv}
