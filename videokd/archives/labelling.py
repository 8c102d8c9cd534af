"""Labels one file of an archive, in whatever process: what is done to it, and the row that comes out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.errors import ConfigError, DataError, DecodeError
from videokd.files import sha256_of
from videokd.jobs.archive_files import ArchiveFile, status_of
from videokd.jobs.failures import any_error_named
from videokd.models.export_files import DESCRIPTION_FILE, WEIGHTS_FILE
from videokd.prediction.batch import check_numbers, predictions_of
from videokd.prediction.loading import GRAPHS, load_predictor
from videokd.prediction.prediction import STEPS, Prediction, RankedLabel, Route
from videokd.prediction.predictor import Predictor
from videokd.prediction.reading import Transcode, read_streams
from videokd.prediction.wanted import Wanted
from videokd.runs.settings import Device, PrecisionName

_LARGEST_BATCH = 4096
_FOR_PYTORCH = (WEIGHTS_FILE, DESCRIPTION_FILE)


@dataclass(frozen=True)
class Labelling:
    """What is done to each file of an archive.

    Args:
        students: what `load_predictor` takes.
        top: how many labels.
        num_segments: as for `videokd.predict`.
        transcode: as for `videokd.predict`.
        exit_threshold: as for `videokd.predict`.
        device: as for `load_predictor`.
        precision: as for `load_predictor`.
        threads: that networks compute with in each process; None: as many as the runtime takes.
        batch_size: how many videos compute together in this process, while others read; None: as many as are fast together on a
            GPU, and on CPUs each process computes by itself.
        scratch: what the names of temporary folders begin with.

    Raises:
        ConfigError: a number is out of range.
    """

    students: str
    top: int = 5
    num_segments: int | None = None
    transcode: Transcode = "auto"
    exit_threshold: float | None = None
    device: Device = "auto"
    precision: PrecisionName = "auto"
    threads: int | None = None
    batch_size: int | None = None
    scratch: str = ""

    def __post_init__(self) -> None:
        check_numbers(top=self.top, num_segments=self.num_segments)
        if self.batch_size is not None and not 1 <= self.batch_size <= _LARGEST_BATCH:
            raise ConfigError(
                f"batch_size is {self.batch_size} (accepted: 1 to {_LARGEST_BATCH}). Correct the setting."
            )

    def made_with(self) -> str:
        """What a row says about how it was made: 16 digits that change with the students and with what may change the labels.

        Raises:
            DataError: there are no students.
        """
        settings = (self.top, self.num_segments, self.transcode, self.exit_threshold, self.precision)
        return hashlib.sha256(json.dumps([digest_of_students(self.students), *settings]).encode()).hexdigest()[:16]


def digest_of_students(path: str) -> str:
    """The SHA-256 of students: of their file, or of the weights and descriptions in their folder.

    Raises:
        DataError: there are none.
    """
    place = _downloaded(path) if path.startswith("hf:") else Path(path)
    names = _FOR_PYTORCH if (place / _FOR_PYTORCH[0]).is_file() else GRAPHS
    files = [file for file in ([place / name for name in names] if place.is_dir() else [place]) if file.is_file()]
    if not files:
        raise DataError(
            f"{path}: no students are there (accepted: the folder that `videokd export` wrote). Check the path."
        )
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def _downloaded(address: str) -> Path:
    from videokd.hub import local_folder

    return local_folder(address, names=_FOR_PYTORCH)


@dataclass(frozen=True)
class LabelledFile:
    """One row of a table of labels.

    Args:
        prediction: of the file.
        bytes: size of the file.
        modified_ns: when it was last changed, in nanoseconds.
        made_with: `Labelling.made_with`.
    """

    prediction: Prediction
    bytes: int
    modified_ns: int
    made_with: str

    def to_json(self) -> str:
        """One line, which `of` reads back."""
        return json.dumps(self.values())

    def values(self) -> dict[str, Any]:
        """{name: value}."""
        others = {"bytes": self.bytes, "modified_ns": self.modified_ns, "made_with": self.made_with}
        return asdict(self.prediction) | others

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LabelledFile:
        """The row with these values.

        Raises:
            KeyError, TypeError, ValueError: they are not those of a row.
        """
        labels = tuple(RankedLabel(str(one["name"]), float(one["probability"])) for one in values["labels"])
        seconds = {step: float(values["seconds"][step]) for step in STEPS}
        prediction = Prediction(values["path"], labels, seconds, dict(values["exits"]), values["route"])
        if not isinstance(prediction.path, str):
            raise TypeError("path is not a text")
        return cls(prediction, int(values["bytes"]), int(values["modified_ns"]), str(values["made_with"]))


@dataclass(frozen=True)
class ReadFile:
    """One file, read as students see it."""

    streams: dict[str, npt.NDArray[np.uint8]]  # [1, S, C, H, W]
    seconds: dict[str, float]
    route: Route
    bytes: int
    modified_ns: int


def label_file(labelling: Labelling, made_with: str, file: ArchiveFile) -> LabelledFile:
    """Labels one file; the students stay loaded for the next.

    Args:
        labelling: what to do.
        made_with: of the labelling.
        file: of an archive.

    Raises:
        DecodeError: the file cannot be read.
        DataError: there are no students.
        ConfigError: a setting cannot be had, or the memory is too small.
    """
    predictor = predictor_for(labelling, made_with)
    read = read_file(labelling, predictor.wanted, file)
    (prediction,) = predictions_of([(file.name, read.streams, read.seconds, read.route)], predictor, top=labelling.top)
    return LabelledFile(prediction, read.bytes, read.modified_ns, made_with)


def read_file(labelling: Labelling, wanted: Wanted, file: ArchiveFile) -> ReadFile:
    """Reads one file as students see it; a DecodeError if it cannot be read."""
    status = status_of(file)
    if S_ISDIR(status.st_mode):
        raise DecodeError(
            f"{file.file} is a folder without videos (accepted: files such as .mp4, .mkv, .avi). Check it."
        )
    with any_error_named(file.file, done="labelled"):
        try:
            read = read_streams(
                file.file,
                wanted,
                num_segments=labelling.num_segments,
                transcode=labelling.transcode,
                scratch=labelling.scratch,
            )
        except DataError as error:
            if isinstance(error.__cause__, OSError):  # no space for a transcoded copy: that is nothing of this file
                raise
            raise DecodeError(str(error)) from error  # it has no P-frame
    return ReadFile(*read, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def predictor_for(labelling: Labelling, made_with: str) -> Predictor:
    """The students of a labelling, loaded once; `made_with` tells apart those that were exported to one folder, one after the other."""
    return load_predictor(
        labelling.students,
        device=labelling.device,
        precision=labelling.precision,
        exit_threshold=labelling.exit_threshold,
        threads=labelling.threads,
    )
