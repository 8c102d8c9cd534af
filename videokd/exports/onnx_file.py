"""Students as an ONNX graph, for runtimes without PyTorch: uint8 streams in, fused logits out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from videokd.errors import ConfigError
from videokd.exports.fused import Fused, compare, errors_only, evaluated
from videokd.files import written_whole
from videokd.models.export_files import DESCRIPTION_FILE, ONNX_FILE
from videokd.models.students import Students
from videokd.prediction.onnx_bytes import sealed

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(students: Students, folder: Path, *, with_exits: bool = False) -> Path:
    """Writes `students.onnx` and `students.json`, after a comparison with PyTorch on random videos.

    The graph takes uint8 [batch, segments, channels, size, size] under the name of each stream (for students with
    smaller inputs than others, under `STREAM@SIZE`), with any batch and any number of segments, and gives `logits`, [batch, classes]:
    normalisation, consensus and fusion are inside. Its texts (`metadata_props`) hold labels, inputs and fusion: to predict, nothing but
    the file is needed.

    Args:
        students: on the CPU.
        folder: made if it is not there.
        with_exits: give `STUDENT:exit1`, … [batch, classes] too, where there are exits; a graph computes all of them, and stops nowhere.

    Returns:
        The folder.

    Raises:
        ConfigError: the packages of the extra `onnx` are not installed.
        VideoKDError: the graph gives something else than PyTorch.
        DataError: the files cannot be written.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)} (accepted: the packages {', '.join(_NEEDED)}). Run `pip install 'videokd[onnx]'`."
        )
    with (
        evaluated(students),
        written_whole(folder / ONNX_FILE) as graph,
        written_whole(folder / DESCRIPTION_FILE) as text,
    ):
        fused = Fused(students, with_exits=with_exits)
        _write(fused, graph)
        graph.write_bytes(sealed(graph.read_bytes()))
        _compare(fused, graph)
        description = json.dumps(students.description(with_exits=False), indent=2, ensure_ascii=False)
        text.write_text(f"{description}\n", encoding="utf-8")
    return folder


def _write(fused: Fused, path: Path) -> None:
    with errors_only("torch.onnx"), warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            fused,
            fused.example,
            dynamo=True,
            dynamic_shapes=fused.dynamic_shapes,
            input_names=list(fused.inputs),
            output_names=list(fused.outputs),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(fused.metadata)
    program.save(str(path), external_data=False)


def _compare(fused: Fused, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def computed(videos: Mapping[str, Tensor]) -> Sequence[Tensor]:
        found = session.run(list(fused.outputs), {name: values.numpy() for name, values in videos.items()})
        return [torch.from_numpy(values) for values in found]

    compare(fused, computed, file=Path(ONNX_FILE))
