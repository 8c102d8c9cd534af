"""videokd: action recognition in compressed video with small, fast models.

The names below are loaded when first touched, so that `import videokd` costs neither torch nor FFmpeg.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videokd.codec.reader import VideoReader as VideoReader
    from videokd.codec.reader import open_video as open  # noqa: F401
    from videokd.description.clip import ClipDescription as ClipDescription
    from videokd.description.clip import describe as describe
    from videokd.distill.fusion import fuse as fuse
    from videokd.errors import ConfigError as ConfigError
    from videokd.errors import DataError as DataError
    from videokd.errors import DecodeError as DecodeError
    from videokd.errors import VideoKDError as VideoKDError
    from videokd.models.students import Students as Students
    from videokd.models.students_file import load_students as load_students
    from videokd.prediction.predict import predict as predict
    from videokd.prediction.prediction import Prediction as Prediction
    from videokd.types import STREAMS as STREAMS
    from videokd.types import Streams as Streams

__version__ = "0.1.0"

# ONNX Runtime writes an identifier of this machine to the disk and sends events to its makers; only before it is imported can that be
# forbidden, also for the processes that this one starts. Whoever set the variable has decided already.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_WHERE = {
    "ClipDescription": "videokd.description.clip",
    "ConfigError": "videokd.errors",
    "DataError": "videokd.errors",
    "DecodeError": "videokd.errors",
    "Prediction": "videokd.prediction.prediction",
    "STREAMS": "videokd.types",
    "Streams": "videokd.types",
    "Students": "videokd.models.students",
    "VideoKDError": "videokd.errors",
    "VideoReader": "videokd.codec.reader",
    "describe": "videokd.description.clip",
    "fuse": "videokd.distill.fusion",
    "load_students": "videokd.models.students_file",
    "open": "videokd.codec.reader:open_video",
    "predict": "videokd.prediction.predict",
}

__all__ = [*_WHERE]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'videokd' has no attribute {name!r} (public names: {', '.join(_WHERE)})")
    module, _, attribute = _WHERE[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_WHERE, "__version__"])
