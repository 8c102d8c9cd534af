"""What is predicted of a video, and how it is printed: as a table, JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from videokd.drawing.notebook import bars_html
from videokd.files import csv_text

#: How a file was read: as it is; with its long GOPs cut to the length of training (`VideoIndex.cut`); or transcoded.
Route = Literal["as it is", "cut GOPs", "transcoded"]


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
    """What the students predict of one video.

    Args:
        path: of the video, or the name of a file object, or "<bytes>".
        labels: the most probable first.
        seconds: {"transcode", "read", "network"}: the time each step took; 0 for transcoding where the file needed none.
        exits: {student: the exit it stopped at}, "deepest" for the whole network; empty without a threshold.
        route: how the file was read: as it is; with its long GOPs cut to the length of training (`VideoIndex.cut`); or transcoded.
    """

    path: str
    labels: tuple[RankedLabel, ...]
    seconds: dict[str, float]
    exits: dict[str, str] = field(default_factory=dict)
    route: Route = "as it is"

    def _repr_html_(self) -> str:
        """The labels as bars, in a notebook."""
        seconds = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in self.seconds.items())
        about = f"{self.path} ({seconds}; {self.route})"
        return bars_html(((label.name, label.probability) for label in self.labels), about=about)


def ranked(probabilities: npt.NDArray[np.float32], class_names: Sequence[str], *, top: int) -> tuple[RankedLabel, ...]:
    """The most probable classes.

    Args:
        probabilities: [K].
        class_names: K names.
        top: how many.

    >>> ranked(np.array([0.25, 0.75], np.float32), ["wave", "clap"], top=1)
    (RankedLabel(name='clap', probability=0.75),)
    """
    best = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(RankedLabel(class_names[number], float(probabilities[number])) for number in best)


def prediction_lines(predictions: Sequence[Prediction], *, layout: Literal["table", "json", "csv"]) -> list[str]:
    """Predictions as the lines that `videokd predict` prints.

    Args:
        predictions: of any number of videos.
        layout: a table to read, one JSON list, or CSV with one row a label.
    """
    if layout == "json":
        return json.dumps([asdict(prediction) for prediction in predictions], indent=1).split("\n")
    return _csv_lines(predictions) if layout == "csv" else _table_lines(predictions)


def _table_lines(predictions: Sequence[Prediction]) -> list[str]:
    lines = []
    for prediction in predictions:
        seconds = sum(prediction.seconds.values())
        parts = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in prediction.seconds.items())
        exits = "".join(f", {student} by {name}" for student, name in prediction.exits.items())
        lines.append(f"{prediction.path}  ({seconds:.3f} s: {parts}{exits}; {prediction.route})")
        lines += [f"  {100 * label.probability:5.1f} %  {label.name}" for label in prediction.labels]
    return lines


def _csv_lines(predictions: Sequence[Prediction]) -> list[str]:
    students = list(predictions[0].exits) if predictions else []
    columns = ["path", "rank", "label", "probability", "transcode_seconds", "read_seconds", "network_seconds", "route"]
    rows: list[list[object]] = [[*columns, *(f"exit_{student}" for student in students)]]
    for prediction in predictions:
        times = [f"{value:.4f}" for value in prediction.seconds.values()]
        for rank, label in enumerate(prediction.labels, start=1):
            numbers = [rank, label.name, f"{label.probability:.6f}", *times]
            rows.append([prediction.path, *numbers, prediction.route, *prediction.exits.values()])
    return csv_text(rows).removesuffix("\n").split("\n")
