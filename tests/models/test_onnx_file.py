"""Exports for other runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from videokd.__main__ import main
from videokd.distill.fusion import fuse
from videokd.errors import ConfigError, VideoKDError
from videokd.models import onnx_file
from videokd.models.network_spec import NetworkSpec
from videokd.models.onnx_file import export_onnx
from videokd.models.students import PredictionSpec, Students, build_students

CLASSES = ("wave", "clap", "throw")


def two_students(space: str, *, smaller: int) -> Students:
    specs = {
        "a": NetworkSpec(("motion", "iframe"), "test_resnet", 3, 32),
        "b": NetworkSpec(("residual",), "test_resnet", 3, smaller),
    }
    return build_students(
        specs, PredictionSpec(CLASSES, 2, weights={"a": 3, "b": 1}, space=space), seed=0, with_exits=True
    ).eval()


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra videokd[onnx] is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("space", "smaller", "third"), [("logits", 32, "residual"), ("probs", 24, "residual@24")])
def test_the_graph_says_what_pytorch_says(space: str, smaller: int, third: str, tmp_path: Path) -> None:
    needs_onnx()
    import onnxruntime

    students = two_students(space, smaller=smaller)
    assert export_onnx(students, tmp_path) == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["students.json", "students.onnx"]
    assert json.loads((tmp_path / "students.json").read_text())["class_names"] == list(CLASSES)
    session = onnxruntime.InferenceSession(str(tmp_path / "students.onnx"))
    assert [given.name for given in session.get_inputs()] == ["motion", "iframe", third]
    assert {given.type for given in session.get_inputs()} == {"tensor(uint8)"}
    for batch, segments in ((1, 1), (2, 5)):
        streams = {
            name: torch.randint(0, 256, (batch, segments, channels, side, side), dtype=torch.uint8)
            for name, channels, side in (("motion", 2, 32), ("iframe", 3, 32), (third, 3, smaller))
        }
        (found,) = session.run(None, {name: values.numpy() for name, values in streams.items()})
        with torch.no_grad():
            expected = fuse(students.logits(streams), students.weights, space=space)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_graph_that_is_off_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_onnx()
    spec = {"a": NetworkSpec(("motion",), "test_resnet", 3, 32)}
    students = build_students(spec, PredictionSpec(CLASSES, 2), seed=0).eval()
    export_onnx(students, tmp_path / "good")
    right = onnx_file.fuse
    monkeypatch.setattr(onnx_file, "fuse", lambda *given, **more: right(*given, **more) + 1)
    with pytest.raises(VideoKDError, match=r"the ONNX graph is off by 1 where PyTorch's largest logit is"):
        export_onnx(students, tmp_path / "bad")
    assert not list((tmp_path / "bad").iterdir())


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ONNX needs onnx, onnxscript, onnxruntime .*pip install 'videokd\[onnx\]'"):
        export_onnx(two_students("logits", smaller=32), tmp_path)


def test_the_verb(student_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(student_run), f"--out={tmp_path / 'graph'}", "--format=onnx"]
    assert main([*command, "--exits"]) == 2
    assert "an ONNX graph cannot stop early" in capsys.readouterr().err
    needs_onnx()
    assert main(command) == 0
    assert (
        "students.onnx, equal to PyTorch on random videos; inputs iframe, motion, residual" in capsys.readouterr().err
    )
