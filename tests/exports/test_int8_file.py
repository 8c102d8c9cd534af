"""Graphs in 8 bits, calibrated with training clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.exports.test_onnx_file import needs_onnx
from tests.small_graphs import metadata
from videokd.__main__ import main
from videokd.errors import DataError
from videokd.exports.calibration import calibration_clips
from videokd.exports.int8_file import export_int8
from videokd.prediction.loading import load_predictor
from videokd.runs import trained_on
from videokd.runs.run_folder import load_run


def convolution(path: Path) -> Path:
    """A graph of students with one convolution, and what prepares its input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    filters = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    matrix = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["iframe"], ["wide"], to=TensorProto.FLOAT, name="widen"),
        helper.make_node("Mul", ["wide", "scale"], ["scaled"], name="scale"),
        helper.make_node("Reshape", ["scaled", "flat"], ["pictures"], name="flatten"),
        helper.make_node("Conv", ["pictures", "filters"], ["features"], name="convolve"),
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], keepdims=0, name="pool"),
        helper.make_node("Gemm", ["pooled", "matrix"], ["rows"], name="classify"),
        helper.make_node("Reshape", ["rows", "apart"], ["segments"], name="unflatten"),
        helper.make_node("ReduceMean", ["segments", "middle"], ["logits"], keepdims=0, name="consensus"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("iframe", TensorProto.UINT8, ("batch", "segments", 3, 32, 32))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))],
        [
            numpy_helper.from_array(np.float32(1 / 255), "scale"),
            numpy_helper.from_array(np.array([-1, 3, 32, 32]), "flat"),
            numpy_helper.from_array(filters, "filters"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.array([-1, 2, 3]), "apart"),
            numpy_helper.from_array(np.array([1]), "middle"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata())
    path.write_bytes(model.SerializeToString())
    return path


def test_a_graph_in_8_bits_says_nearly_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_onnx()
    import onnx

    rng = np.random.default_rng(0)
    videos = [{"iframe": rng.integers(0, 256, (1, 2, 3, 32, 32), dtype=np.uint8)} for _ in range(5)]
    graph = convolution(tmp_path / "students.onnx")
    made = export_int8(graph, videos)
    assert made.judged == 2
    assert made.same_label >= 0.5
    assert made.logit_error < 0.05
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["students.int8.onnx", "students.onnx"]
    model = onnx.load(str(tmp_path / "students.int8.onnx"))
    texts = {each.key: each.value for each in model.metadata_props}
    how = json.loads(texts.pop("int8"))
    assert (how["clips"], how["activations"], how["range_percent"]) == (5, "uint8", made.range_percent)
    assert len(texts.pop("sha256")) == 64
    assert texts == metadata()
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["filters_quantized"] == onnx.TensorProto.INT8
    first = next(node for node in model.graph.node if "Quantize" in node.op_type and "filters" not in node.input[0])
    assert first.input[0] == "pictures"  # what prepares the input is as it was
    assert not {"pooled", "rows", "segments"} & {
        name for n in model.graph.node if "Quantize" in n.op_type for name in n.input
    }
    predictors = [load_predictor(tmp_path / name, device="cpu") for name in ("students.onnx", "students.int8.onnx")]
    both = [predictor(videos[0], names=["a"]).probabilities for predictor in predictors]
    np.testing.assert_allclose(both[1], both[0], atol=0.05)
    damaged = bytearray((tmp_path / "students.int8.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "students.int8.onnx").write_bytes(damaged)
    with pytest.raises(DataError, match="it is damaged"):
        load_predictor(tmp_path / "students.int8.onnx", device="cpu")


def test_the_range_is_kept_that_gives_the_nearest_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_onnx()
    rng = np.random.default_rng(0)
    videos = [{"iframe": rng.integers(0, 256, (1, 2, 3, 32, 32), dtype=np.uint8)} for _ in range(4)]
    graph = convolution(tmp_path / "students.onnx")
    errors = {}
    for covered in (20.0, 100.0):
        monkeypatch.setattr("videokd.exports.int8_file._COVERED", (covered,))
        errors[covered] = export_int8(graph, videos).logit_error
    assert errors[100.0] < errors[20.0] / 5
    for order in ((20.0, 100.0), (100.0, 20.0)):
        monkeypatch.setattr("videokd.exports.int8_file._COVERED", order)
        made = export_int8(graph, videos)
        assert made.range_percent == 100.0
        assert made.logit_error == pytest.approx(errors[100.0])


def test_one_clip_is_enough(tmp_path: Path) -> None:
    needs_onnx()
    video = {"iframe": np.random.default_rng(0).integers(0, 256, (1, 2, 3, 32, 32), dtype=np.uint8)}
    assert export_int8(convolution(tmp_path / "students.onnx"), [video]).judged == 1


def test_calibration_takes_training_clips_only(student_run: Path) -> None:
    run = load_run(student_run)
    clips = calibration_clips(run, most=1000)
    record = trained_on.TrainedOn.read(student_run)
    assert record is not None
    assert {clip.sha256 for clip in clips.clips} == {key[0] for key in record.fit}
    assert not {clip.video_id for clip in clips.clips} & {
        clip.video_id for clip in trained_on.tested_clips(clips.manifest, split=run.settings.split)
    }
    assert len(calibration_clips(run, most=3)) == 3
    assert {name: values.shape for name, values in clips[0].streams.items()} == {
        "iframe": (8, 3, 32, 32),
        "motion": (8, 2, 32, 32),
        "residual": (8, 3, 32, 32),
    }


def test_without_the_clips_of_the_run_there_is_no_calibration(
    student_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(student_run)
    monkeypatch.setattr("videokd.exports.calibration.trained_on", lambda folder, settings: None)
    with pytest.raises(DataError, match=r"has no clip that .* was fitted to, which int8 is calibrated with"):
        calibration_clips(run, most=3)
    with pytest.raises(DataError, match=r"/nowhere: no such manifest"):
        calibration_clips(replace(run, settings=replace(run.settings, manifest="/nowhere")), most=3)


def test_the_verb_refuses_int8_of_other_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", "--out=o", "--int8"]) == 2
    assert "int8 is for ONNX, and format is safetensors" in capsys.readouterr().err
    assert main(["export", "run", "--out=o", "--format=onnx", "--int8", "--calibration_clips=0"]) == 2
    assert "calibration_clips is 0 (accepted: 1 to 10000)" in capsys.readouterr().err
