"""Programs of torch.export: PyTorch without videokd and timm runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.exports.test_onnx_file import CLASSES, two_students
from videokd.distill.fusion import fuse
from videokd.errors import VideoKDError
from videokd.exports import fused
from videokd.exports.torch_file import export_program

ALONE = """
import json, sys
sys.modules.update(dict.fromkeys(("videokd", "timm", "torchvision", "einops")))
import torch
texts = {"class_names": "", "inputs": ""}
program = torch.export.load(sys.argv[1], extra_files=texts).module()
torch.manual_seed(0)
sides = {"motion": 2, "iframe": 3, "residual@24": 3}
streams = [
    torch.randint(0, 256, (3, 5, sides[key], side, side), dtype=torch.uint8)
    for key, (stream, side) in json.loads(texts["inputs"]).items()
]
torch.save((streams, program(*streams)), sys.argv[2])
print(texts["class_names"])
"""


@pytest.mark.slow
def test_pytorch_alone_runs_the_program(tmp_path: Path) -> None:
    students = two_students("probs", smaller=24)
    assert export_program(students, tmp_path, with_exits=True) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["students.pt2"]
    command = [sys.executable, "-c", ALONE, str(tmp_path / "students.pt2"), str(tmp_path / "outputs.pt")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(CLASSES)
    streams, found = torch.load(tmp_path / "outputs.pt", weights_only=True)
    with torch.no_grad():
        expected = students.logits(
            dict(zip(("motion", "iframe", "residual@24"), streams, strict=True)), with_exits=True
        )
    own = {name: expected.pop(name) for name in ("a", "b")}
    torch.testing.assert_close(found[0], fuse(own, students.weights, space="probs"), rtol=1e-4, atol=1e-5)
    assert [*expected] == [f"{student}:exit{number}" for student in "ab" for number in (1, 2, 3)]
    for values, exit_logits in zip(found[1:], expected.values(), strict=True):
        torch.testing.assert_close(values, exit_logits, rtol=1e-4, atol=1e-5)


def test_a_program_that_is_off_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    students = two_students("logits", smaller=32)
    right = fused.fuse
    monkeypatch.setattr(fused, "fuse", lambda *given, **more: right(*given, **more) + 1)
    (tmp_path / "students.pt2").write_bytes(b"an older one")
    with pytest.raises(VideoKDError, match=r"students.pt2: logits is off by 1 where PyTorch's largest is"):
        export_program(students, tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older one"]
