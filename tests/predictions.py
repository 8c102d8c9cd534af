"""Reads videos as students see them, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from videokd.models.students import Students
from videokd.prediction.prediction import Route
from videokd.prediction.reading import read_streams
from videokd.prediction.torch_predictor import TorchPredictor


def streams_for(students: Students, path: Any, **settings: Any) -> tuple[dict[str, Tensor], dict[str, float], Route]:
    """As `read_streams`, with tensors."""
    streams, seconds, route = read_streams(path, TorchPredictor(students).wanted, **settings)
    return {name: torch.from_numpy(values) for name, values in streams.items()}, seconds, route
