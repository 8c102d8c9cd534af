"""Students, whatever names them, ready to predict. PyTorch is imported only where it predicts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from videokd.errors import ConfigError
from videokd.messages import say
from videokd.models.export_files import INT8_FILE, ONNX_FILE, WEIGHTS_FILE
from videokd.prediction.predictor import Predictor
from videokd.runs.settings import Device, PrecisionName

#: Files by which Linux gives GPUs to programs: NVIDIA's, AMD's, and those of Windows' subsystem.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
#: Graphs that a folder may have, the one that is used first.
GRAPHS = (ONNX_FILE, INT8_FILE)


def load_predictor(
    path: str | os.PathLike[str],
    *,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    exit_threshold: float | None = None,
    threads: int | None = None,
) -> Predictor:
    """Students that `videokd export` wrote, ready to predict: with PyTorch, or an ONNX graph with ONNX Runtime and without PyTorch.

    Args:
        path: their folder, or an ONNX file. Of a folder that has several kinds, the weights for PyTorch are used.
        device: auto takes CUDA where there is one.
        precision: as for `videokd predict`; a graph has its own.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; not for graphs. None: no
            student stops early.
        threads: that networks compute with on CPUs; None: as many as the runtime takes.

    Raises:
        DataError: the folder or one of its files is missing, damaged, or of something else.
        ConfigError: a setting cannot be had, or what computes is not installed.
    """
    graph = _graph_of(Path(path))
    if graph is not None:
        _check_for_graph(graph, precision=precision, exit_threshold=exit_threshold)
        from videokd.prediction.onnx_predictor import OnnxPredictor

        return OnnxPredictor(graph, device=device, threads=threads)
    try:
        import torch

        from videokd.models.students_file import load_students
        from videokd.prediction.torch_predictor import TorchPredictor
        from videokd.runs.device import pick_device, pick_precision
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path} needs {error.name}, which is not installed (accepted without it: students.onnx, of `videokd export --format onnx`). "
            "Install videokd with all that it requires, or give an ONNX file."
        ) from error

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = pick_precision(precision, pick_device(device), training=False)
    return TorchPredictor(chosen.prepared(load_students(path)), precision=chosen, exit_threshold=exit_threshold)


def computes_on_gpu(path: str, device: Device) -> bool:
    """Whether students will compute on a GPU; PyTorch is asked only where the system may have one.

    Args:
        path: as for `load_predictor`.
        device: as for `load_predictor`.
    """
    if device != "auto" or Path(path).suffix == ".onnx":
        return device == "cuda"
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_DEVICES)):
        return False
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def _graph_of(path: Path) -> Path | None:
    """The graph to use; None where it is weights for PyTorch, or nothing is there."""
    if path.suffix == ".onnx" and not path.is_dir():
        return path
    graphs = [path / name for name in GRAPHS if (path / name).is_file()]
    if not graphs:
        return None
    weights = (path / WEIGHTS_FILE).is_file()
    if weights or len(graphs) > 1:
        used = WEIGHTS_FILE if weights else graphs[0].name
        others = graphs if weights else graphs[1:]
        say(f"{path}: {used} is used; to use another, name the file: {', '.join(map(str, others))}.")
    return None if weights else graphs[0]


def _check_for_graph(graph: Path, *, precision: PrecisionName, exit_threshold: float | None) -> None:
    if precision not in ("auto", "fp32"):
        raise ConfigError(
            f"precision {precision}: {graph} computes in the precision that it was exported in (accepted: auto, fp32). Omit it, or give "
            f"a folder with {WEIGHTS_FILE}."
        )
    if exit_threshold is not None:
        raise ConfigError(
            f"exit_threshold is {exit_threshold}, but {graph} cannot stop early (accepted: none for an ONNX graph). Omit it, or give a "
            f"folder with {WEIGHTS_FILE} that was exported with `--exits`."
        )


def predictor_of(students: Any, *, exit_threshold: float | None = None) -> Predictor:
    """Whatever names students, ready to predict.

    Args:
        students: a folder of `videokd export` or an ONNX file, which is loaded; `Students`, which compute where and in what they are; or a
            predictor.
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
