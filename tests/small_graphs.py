"""Tiny ONNX graphs of students, made by hand: colours in, logits out, with the texts that `videokd export` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videokd.prediction.graph_metadata import graph_metadata
from videokd.prediction.wanted import Wanted

WANTED = Wanted(("wave", "🏄 サーフ", "throw"), {"iframe": ("iframe", 32)}, 2)


def metadata(**other: str | None) -> dict[str, str]:
    """The texts of a sound graph; with others, or None, in the place of some."""
    texts: dict[str, Any] = graph_metadata(
        WANTED, fusion={"weights": {"a": 1.0}, "space": "logits"}, videokd_version="0.1.0"
    )
    return {key: text for key, text in (texts | other).items() if text is not None}


def colour_graph(
    texts: Mapping[str, str],
    *,
    key: str = "iframe",
    kind: str = "UINT8",
    shape: tuple[Any, ...] = ("batch", "segments", 3, 32, 32),
    output: str = "logits",
    weights: Any = None,
    opset: int = 18,
) -> Any:
    """A model whose logits are the mean of each colour, times `weights` [3, K]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.eye(3, dtype=np.float32) if weights is None else np.asarray(weights, np.float32)
    nodes = [
        helper.make_node("Cast", [key], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "axes"], ["colours"], keepdims=0),
        helper.make_node("MatMul", ["colours", "matrix"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(key, getattr(TensorProto, kind), shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("batch", matrix.shape[1]))],
        [numpy_helper.from_array(np.array([1, 3, 4]), "axes"), numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.helper.set_model_props(model, dict(texts))
    return model


def write_graph(path: Path, **changes: Any) -> Path:
    """A sound graph as a file, or one with changes: `texts`, or arguments of `colour_graph`."""
    path.write_bytes(colour_graph(changes.pop("texts", metadata()), **changes).SerializeToString())
    return path
