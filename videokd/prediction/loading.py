"""Students, whatever names them, ready to predict. PyTorch is imported only where it predicts."""

from __future__ import annotations

import os
from typing import Any

from videokd.prediction.predictor import Predictor
from videokd.runs.settings import Device, PrecisionName


def load_predictor(
    path: str | os.PathLike[str],
    *,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    exit_threshold: float | None = None,
) -> Predictor:
    """Students that `videokd export` wrote, ready to predict.

    Args:
        path: their folder.
        device: auto takes CUDA where there is one.
        precision: as for `videokd predict`.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1. None: no student
            stops early.

    Raises:
        DataError: the folder or one of its files is missing, damaged, or of something else.
        ConfigError: a setting cannot be had.
    """
    from videokd.models.students_file import load_students
    from videokd.prediction.torch_predictor import TorchPredictor
    from videokd.runs.device import pick_device, pick_precision

    chosen = pick_precision(precision, pick_device(device), training=False)
    return TorchPredictor(chosen.prepared(load_students(path)), precision=chosen, exit_threshold=exit_threshold)


def predictor_of(students: Any, *, exit_threshold: float | None = None) -> Predictor:
    """Whatever names students, ready to predict.

    Args:
        students: a folder of `videokd export`, which is loaded; `Students`, which compute where and in what they are; or a predictor.
        exit_threshold: as for `load_predictor`; a predictor has its own.

    Raises:
        DataError: the folder holds no students.
        ConfigError: the threshold is out of range, or the students have no exits.
    """
    if isinstance(students, str | os.PathLike):
        return load_predictor(students, device="cpu", precision="fp32", exit_threshold=exit_threshold)
    if hasattr(students, "wanted"):
        predictor: Predictor = students
        return predictor
    from videokd.prediction.torch_predictor import TorchPredictor

    return TorchPredictor(students, exit_threshold=exit_threshold)
