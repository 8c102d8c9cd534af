"""What is predicted of a video, and how it is printed: as a table, JSON and CSV, one video after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from videokd.drawing.notebook import bars_html
from videokd.files import csv_text

#: How a file was read: as it is; with its long GOPs cut to the length of training (`VideoIndex.cut`); or transcoded.
Route = Literal["as it is", "cut GOPs", "transcoded"]
#: How predictions are printed.
Layout = Literal["table", "jsonl", "json", "csv"]
#: The steps whose times `Prediction.seconds` has, in order.
STEPS = ("transcode", "read", "decode", "streams", "network")
_CSV_COLUMNS = ("path", "rank", "label", "probability", *(f"{step}_seconds" for step in STEPS), "route")


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
        seconds: {"transcode", "read", "decode", "streams", "network"}: the time each step took. transcode: into the training form, 0
            where the file needed none; read: opening the file, finding its packets and reading its headers; decode: waiting for
            decoded frames, with the bytes that are read for them; streams: motion, residuals, colours, crops and their scaling;
            network: the students. Of videos that are predicted in one batch, each has its share of the network's time.
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


class PredictionPrinter:
    """Predictions as the lines that `videokd predict` prints, each as soon as it is known.

    Args:
        layout: a table to read; JSON lines, one a video; one JSON list; or CSV with one row a label.

    >>> printer = PredictionPrinter("json")
    >>> [*printer.lines(Prediction("a.mp4", (), {})), *printer.end()][:3]
    ['[', ' {', '  "path": "a.mp4",']
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._count = 0

    def lines(self, prediction: Prediction) -> list[str]:
        """What is printed of one more video. Of a JSON list, its last line comes later, because a comma may follow it."""
        self._count += 1
        if self._layout == "jsonl":
            return [json.dumps(asdict(prediction))]
        if self._layout == "json":
            _, *item, _, _ = json.dumps([asdict(prediction)], indent=1).split("\n")
            return ["[" if self._count == 1 else " },", *item]
        if self._layout == "csv":
            rows = list(csv_rows(prediction))
            return _csv_lines([csv_columns(prediction), *rows] if self._count == 1 else rows)
        return list(_table_lines(prediction))

    def end(self) -> list[str]:
        """What is printed after the last video."""
        if self._layout == "json":
            return [" }", "]"] if self._count else ["[]"]
        return _csv_lines([_CSV_COLUMNS]) if self._layout == "csv" and not self._count else []


def _table_lines(prediction: Prediction) -> Iterator[str]:
    seconds = sum(prediction.seconds.values())
    parts = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in prediction.seconds.items())
    exits = "".join(f", {student} by {name}" for student, name in prediction.exits.items())
    yield f"{prediction.path}  ({seconds:.3f} s: {parts}{exits}; {prediction.route})"
    yield from (f"  {100 * label.probability:5.1f} %  {label.name}" for label in prediction.labels)


def csv_columns(prediction: Prediction) -> list[str]:
    """Names of the columns of `csv_rows`."""
    return [*_CSV_COLUMNS, *(f"exit_{student}" for student in prediction.exits)]


def csv_rows(prediction: Prediction) -> Iterator[list[object]]:
    """The rows of one video in CSV: one a label."""
    times = [f"{prediction.seconds[step]:.4f}" for step in STEPS]
    for rank, label in enumerate(prediction.labels, start=1):
        numbers = [rank, label.name, f"{label.probability:.6f}", *times]
        yield [prediction.path, *numbers, prediction.route, *prediction.exits.values()]


def _csv_lines(rows: Sequence[Sequence[object]]) -> list[str]:
    return csv_text(rows).removesuffix("\n").split("\n")
