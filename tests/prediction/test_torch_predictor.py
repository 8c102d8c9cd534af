"""Students that predict with PyTorch."""

from __future__ import annotations

import pytest

from tests.small_networks import spec
from videokd.errors import ConfigError
from videokd.models.students import PredictionSpec, build_students
from videokd.prediction.torch_predictor import TorchPredictor


def test_students_without_values_are_refused() -> None:
    students = build_students({"a": spec("iframe")}, PredictionSpec([*"vwxyz"], 2), seed=0)
    assert TorchPredictor(students).wanted.num_segments == 2
    with pytest.raises(ConfigError, match="on the device meta"):
        TorchPredictor(students.to("meta"))
