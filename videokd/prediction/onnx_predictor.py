"""Students that predict with ONNX Runtime, without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.errors import ConfigError, DataError, VideoKDError
from videokd.prediction.graph_metadata import wanted_of
from videokd.prediction.onnx_bytes import check_onnx
from videokd.prediction.predictor import Answer, softmax
from videokd.prediction.wanted import Wanted
from videokd.runs.settings import Device
from videokd.types import STREAMS

_MOST_BYTES = 2**31 - 1  # of one message of protobuf
_MOST_THREADS = 1024
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_WHAT_NEXT = "Give a file that `videokd export --format onnx` wrote, or export the students again."


class OnnxPredictor:
    """Students as an ONNX graph, asked about streams.

    The file may come from anybody: it is one file without external data, its texts and the graph's inputs and outputs must be those of
    students, and operators are only those of ONNX Runtime itself.

    Args:
        path: `students.onnx` or `students.int8.onnx`, of `videokd export`.
        device: auto takes CUDA where ONNX Runtime has it.
        threads: to compute with on CPUs; None: OMP_NUM_THREADS, or one per CPU.

    Raises:
        DataError: the file is missing, damaged, or of something else.
        ConfigError: ONNX Runtime is not installed, or has no CUDA.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: Device = "auto", threads: int | None = None) -> None:
        self._path = Path(path)
        self._session = _session(self._path, device, threads)
        try:
            self._wanted = wanted_of(self._session.get_modelmeta().custom_metadata_map)
            _check_graph(self._session, self._wanted)
        except (ConfigError, UnicodeDecodeError) as error:
            raise DataError(f"{self._path} is not a graph of students: {error} {_WHAT_NEXT}") from error

    @property
    def wanted(self) -> Wanted:
        """What the students want of a video."""
        return self._wanted

    def __call__(self, streams: Mapping[str, npt.NDArray[np.uint8]], *, names: Sequence[str]) -> Answer:
        """Names the action in B videos; see `Predictor`."""
        given = {key: np.ascontiguousarray(streams[key]) for key in self._wanted.inputs}
        try:
            (logits,) = self._session.run(["logits"], given)
        except Exception as error:  # ONNX Runtime has no class of its own for a memory that is too small
            segments = next(iter(given.values())).shape[1]
            raise ConfigError(
                f"ONNX Runtime cannot compute {', '.join(names)} in {segments} segments ({_reason(error)}). Pass fewer: "
                f"`--num_segments {max(segments // 2, 1)}`; in Python `num_segments=`."
            ) from error
        if logits.shape != (len(names), len(self._wanted.class_names)):
            raise DataError(f"{self._path} gives logits {list(logits.shape)} for {len(names)} videos. {_WHAT_NEXT}")
        broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(broken):
            raise VideoKDError(f"{self._path}: the logits for {names[broken[0]]} are not finite. {_WHAT_NEXT}")
        return Answer(softmax(logits).astype(np.float32))


def _session(path: Path, device: Device, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{path} needs ONNX Runtime, which is not installed. Run `pip install 'videokd[onnxruntime]'`."
        ) from error
    content = _content(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or _num_threads()
    options.inter_op_num_threads = 1
    # Threads that wait by spinning slow a busy machine down, and gain little on an idle one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong comes as an error
    providers = _providers(onnxruntime.get_available_providers(), device)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # a file from anybody can be wrong in more ways than ONNX Runtime has classes of errors
        raise DataError(f"{path} cannot be loaded by ONNX Runtime ({_reason(error)}). {_WHAT_NEXT}") from error
    if device == "cuda" and _CUDA not in session.get_providers():
        raise ConfigError(
            "ONNX Runtime cannot start CUDA here (accepted: auto, cpu). Check the driver, CUDA and cuDNN."
        )
    return session


def _content(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is too large for ONNX (accepted: at most {_MOST_BYTES} bytes). {_WHAT_NEXT}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). {_WHAT_NEXT}") from error
    try:
        check_onnx(content)
    except DataError as error:
        raise DataError(f"{path} is not accepted as ONNX: {error}. {_WHAT_NEXT}") from error
    return content


def _providers(available: Sequence[str], device: Device) -> list[str]:
    if device == "cuda" and _CUDA not in available:
        raise ConfigError(
            "device cuda: ONNX Runtime has no CUDA here (accepted: auto, cpu). Run `pip uninstall onnxruntime` and then "
            "`pip install onnxruntime-gpu`."
        )
    return [_CUDA, _CPU] if device != "cpu" and _CUDA in available else [_CPU]


def _num_threads() -> int:
    """OMP_NUM_THREADS, as for PyTorch, or as many as there are processors that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked[:9]):
        return min(int(asked[:9]), _MOST_THREADS)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_graph(session: Any, wanted: Wanted) -> None:
    """Refuses a graph whose inputs and outputs are not those that its texts describe."""
    inputs = {given.name: (given.type, given.shape) for given in session.get_inputs()}
    if set(inputs) != set(wanted.inputs):
        raise ConfigError(f"its inputs are {_listed(inputs)} (accepted, as it says itself: {_listed(wanted.inputs)}).")
    for key, (stream, side) in wanted.inputs.items():
        kind, shape = inputs[key]
        accepted = [STREAMS[stream].channels, side, side]
        free = all(not isinstance(size, int) for size in shape[:2])
        if kind != "tensor(uint8)" or len(shape) != 5 or not free or list(shape[2:]) != accepted:
            raise ConfigError(
                f"its input {key} is {kind}{shape} (accepted: tensor(uint8), any batch and segments, then {accepted})."
            )
    outputs = {given.name: (given.type, given.shape) for given in session.get_outputs()}
    kind, shape = outputs.get("logits", ("", []))
    if kind != "tensor(float)" or len(shape) != 2 or shape[1] != len(wanted.class_names):
        raise ConfigError(
            f"its outputs are {_listed(outputs)} (accepted: logits, tensor(float), of {len(wanted.class_names)} classes)."
        )


def _listed(names: Mapping[str, Any]) -> str:
    return f"{', '.join(names) or 'none':.200}"


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its prefix and on one line."""
    text = " ".join(str(error).split()) or repr(error)
    return f"{text.rpartition('] : ')[2]:.200}"
