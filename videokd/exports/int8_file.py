"""An ONNX graph of students in 8 bits, made of the one in 32 bits and of clips that show the range of each activation.

Static quantisation by ONNX Runtime (Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference): weights as int8 with a scale for each channel, activations as uint8 with one scale.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.exports.fused import errors_only
from videokd.files import temporary_folder, written_whole
from videokd.models.export_files import INT8_FILE
from videokd.prediction.onnx_bytes import sealed

#: Percent of an activation's values that its range may cover: without the rarest, the steps between all others are finer. Which is best
#: depends on the network, so each is tried.
_COVERED = (99.9, 99.99, 100.0)
#: Where nearly all of the time goes; classifiers, of pooled features, are Gemm.
_HEAVY = ("Conv", "MatMul")
_HOW = {"method": "static", "weights": "int8, per channel", "activations": "uint8"}

Videos = Sequence[Mapping[str, npt.NDArray[np.uint8]]]
"""Videos, each {input: uint8 [1, S, C, H, W]}."""


@dataclass(frozen=True, slots=True)
class Int8:
    """A graph in 8 bits beside the one in 32.

    Attributes:
        range_percent: share of each activation's values that its range covers.
        logit_error: root mean square of the logits' differences, as a share of that of the logits less their mean.
        same_label: share of the videos that get the same label from both.
        judged: videos that these two were taken from; none of them measured a range, except where one video is all there is.
    """

    range_percent: float
    logit_error: float
    same_label: float
    judged: int


def export_int8(graph: Path, videos: Videos) -> Int8:
    """Writes `students.int8.onnx` beside a graph.

    Every second video measures the ranges of activations, once for each share of the values that a range may cover. The graph that is
    kept is the one whose logits are nearest to those in 32 bits on the other videos.

    What comes before the first convolutions (normalisation, and the BatchNorm of motion and residuals) and after the last ones (pooling,
    classifiers, consensus, fusion) stays in 32 bits: it takes next to no time, and logits in 8 bits would often be equal. The texts say
    how: `int8`.

    Args:
        graph: `students.onnx`, from `export_onnx`.
        videos: training clips; all are in memory at once, their activations are not.

    Returns:
        How the graph was made, and how near it is to the other.

    Raises:
        DataError: the file cannot be written.
    """
    measured, others = videos[::2], videos[1::2] or videos
    expected = _logits(graph, others)
    with (
        written_whole(graph.parent / INT8_FILE) as aside,
        temporary_folder() as folder,
        # What quantisation warns of was decided here; it also prints what it does
        errors_only(),
        redirect_stdout(io.StringIO()),
    ):
        prepared = _prepared(graph, folder)
        tried = []
        for covered in _COVERED:
            file = folder / f"{covered}.onnx"
            _quantise(prepared, file, measured, covered=covered)
            found = _logits(file, others)
            tried.append(Int8(covered, _distance(found, expected), _same(found, expected), len(others)))
        best = min(tried, key=lambda each: each.logit_error)
        how = {"range_percent": best.range_percent, "logit_error": round(best.logit_error, 4), "clips": len(videos)}
        _finish(folder / f"{best.range_percent}.onnx", aside, like=graph, how=how)
    return best


def _prepared(graph: Path, folder: Path) -> Path:
    """Writes the graph with its constants and BatchNorms folded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    return prepared


def _quantise(prepared: Path, path: Path, videos: Videos, *, covered: float) -> None:
    """Writes a graph in 8 bits."""
    import onnx
    from onnxruntime import quantization

    quantization.quantize_static(
        str(prepared),
        str(path),
        _Reader(videos),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=_around_convolutions(onnx.load(str(prepared)).graph),
        calibrate_method=quantization.CalibrationMethod.Percentile,
        # One video at a time, or the activations of all would be in memory at once
        extra_options={"CalibPercentile": covered, "CalibStridedMinMax": 1},
    )


class _Reader:
    """Videos as ONNX Runtime's calibration asks for them."""

    def __init__(self, videos: Videos) -> None:
        self._videos = videos
        self._next, self._end = 0, len(videos)

    def __len__(self) -> int:
        return len(self._videos)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> Mapping[str, npt.NDArray[np.uint8]] | None:
        self._next += 1
        return self._videos[self._next - 1] if self._next <= self._end else None


def _around_convolutions(graph: Any) -> list[str]:
    """Names of the nodes that no convolution (or product of a transformer) comes before, or none after."""
    passed: set[str] = set()
    needed: set[str] = set()
    around = []
    for node in graph.node:  # in the order of computation
        if node.op_type in _HEAVY or passed.intersection(node.input):
            passed.update(node.output)
        else:
            around.append(node.name)
    for node in reversed(graph.node):
        if node.op_type in _HEAVY or needed.intersection(node.output):
            needed.update(node.input)
        else:
            around.append(node.name)
    return around


def _finish(quantised: Path, aside: Path, *, like: Path, how: Mapping[str, float]) -> None:
    """Writes the quantised graph with the texts of the other, and with how it was made."""
    import onnx
    import onnxruntime

    model, original = onnx.load(str(quantised)), onnx.load(str(like))
    texts = {each.key: each.value for each in original.metadata_props}
    texts.pop("sha256", None)  # of the other file
    texts["int8"] = json.dumps({**_HOW, **how, "onnxruntime": onnxruntime.__version__})
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, texts)
    aside.write_bytes(sealed(model.SerializeToString()))


def _logits(graph: Path, videos: Videos) -> npt.NDArray[np.float32]:
    """Fused logits [videos, K]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.read_bytes(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], video)[0] for video in videos])


def _distance(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Between logits, as softmax sees them: a number added to all of a video's classes does not count."""
    centred, target = (logits - logits.mean(1, keepdims=True) for logits in (found, expected))
    return float(np.sqrt(np.mean((centred - target) ** 2) / max(np.mean(target**2), 1e-12)))


def _same(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float((found.argmax(1) == expected.argmax(1)).mean())
