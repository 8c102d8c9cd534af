"""Exports for other runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import videokd
from tests.conftest import MakeClip
from tests.small_networks import random_streams
from videokd.__main__ import main
from videokd.distill.fusion import fuse
from videokd.errors import ConfigError, DataError, VideoKDError
from videokd.exports import fused, onnx_file
from videokd.exports.onnx_file import export_onnx
from videokd.exports.torch_file import export_program
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.prediction.loading import load_predictor
from videokd.prediction.torch_predictor import TorchPredictor

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
    right = fused.fuse
    monkeypatch.setattr(fused, "fuse", lambda *given, **more: right(*given, **more) + 1)
    with pytest.raises(VideoKDError, match=r"students.onnx: logits is off by 1 where PyTorch's largest is"):
        export_onnx(students, tmp_path / "bad")
    assert not list((tmp_path / "bad").iterdir())


@pytest.mark.slow
def test_exits_are_further_outputs(tmp_path: Path) -> None:
    needs_onnx()
    import onnxruntime

    students = two_students("probs", smaller=32)
    export_onnx(students, tmp_path, with_exits=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "students.onnx"))
    names = [given.name for given in session.get_outputs()]
    assert names == ["logits", *(f"{student}:exit{number}" for student in "ab" for number in (1, 2, 3))]
    streams = random_streams("motion", "iframe", "residual", batch=3, segments=4)
    found = dict(zip(names, session.run(names, {k: v.numpy() for k, v in streams.items()}), strict=True))
    with torch.no_grad():
        expected = students.logits(streams, with_exits=True)
    for name in names[1:]:
        np.testing.assert_allclose(found[name], expected.pop(name).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["logits"], fuse(expected, students.weights, space="probs"), rtol=1e-4, atol=1e-5)
    assert load_predictor(tmp_path, device="cpu").wanted == TorchPredictor(students).wanted


def test_what_only_onnx_runtime_predicts_is_what_pytorch_predicts(tmp_path: Path, make_clip: MakeClip) -> None:
    needs_onnx()
    students = two_students("logits", smaller=32)
    clip = make_clip("mpeg4")
    graph = videokd.predict(clip, export_onnx(students, tmp_path))
    expected = videokd.predict(clip, students)
    assert [label.name for label in graph.labels] == [label.name for label in expected.labels]
    for label, other in zip(graph.labels, expected.labels, strict=True):
        assert label.probability == pytest.approx(other.probability, abs=1e-4)


def test_an_interrupted_export_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_onnx()
    (tmp_path / "students.onnx").write_bytes(b"an older one")

    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(two_students("logits", smaller=32), tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("students.onnx", b"an older one")]


def test_a_full_disk_and_a_locked_folder_leave_nothing(tiny_disk: Path) -> None:
    needs_onnx()
    students = two_students("logits", smaller=32)
    (tiny_disk / "students.onnx").write_bytes(b"an older one")
    (tiny_disk / "full").write_bytes(b"x" * 900_000)
    with pytest.raises(DataError, match=r"students.(onnx|json) could not be written \(No space left on device\)"):
        export_onnx(students, tiny_disk)
    with pytest.raises(DataError, match=r"students.pt2 could not be written"):
        export_program(students, tiny_disk)
    assert sorted(path.name for path in tiny_disk.iterdir()) == ["full", "students.onnx"]
    assert (tiny_disk / "students.onnx").read_bytes() == b"an older one"


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ONNX needs onnx, onnxscript, onnxruntime .*pip install 'videokd\[onnx\]'"):
        export_onnx(two_students("logits", smaller=32), tmp_path)


def test_the_verb(student_run: Path, make_clip: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "graph"
    command = ["export", str(student_run), f"--out={out}"]
    assert main([*command, "--format=onnx", "--exits"]) == 2
    assert "has no exits to keep" in capsys.readouterr().err
    assert main([*command, "--format=torch"]) == 0
    assert "students.pt2, equal to the students on random videos; inputs iframe, motion" in capsys.readouterr().err
    needs_onnx()
    assert main([*command, "--format=onnx", "--int8", "--calibration_clips=4"]) == 0
    said, next_command = capsys.readouterr().err.splitlines()[-2:]
    assert "students.int8.onnx, calibrated with 4 training clips. Of the 2 of them that measured no range," in said
    assert next_command == f"Next: videokd predict FILE --students {out}/students.int8.onnx"
    written = {path.name for path in out.iterdir()}
    assert {"README.md", "students.int8.onnx", "students.json", "students.onnx", "students.pt2"} <= written
    for name in ("students.onnx", "students.int8.onnx"):
        assert main(["predict", str(make_clip("mpeg4")), f"--students={out / name}", "--top=1"]) == 0
