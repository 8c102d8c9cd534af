"""Students as an ONNX graph, for runtimes without PyTorch: uint8 streams in, fused logits out."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from videokd.distill.fusion import fuse
from videokd.errors import ConfigError, VideoKDError
from videokd.files import written_whole
from videokd.models.finite import random_videos
from videokd.models.students import Students
from videokd.models.students_file import DESCRIPTION_FILE

ONNX_FILE = "students.onnx"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-3  # of the largest logit; runtimes add up in another order


class _Fused(nn.Module):
    """All students and the fusion of their logits, with nothing that a graph cannot hold."""

    shares: Tensor

    def __init__(self, students: Students) -> None:
        super().__init__()
        self.students = students
        weights = [students.weights[name] for name in students.specs]
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        self.register_buffer("shares", shares.float().reshape(-1, 1, 1))  # [M, 1, 1]

    def forward(self, *streams: Tensor) -> Tensor:
        """uint8 [B, S, C, H, W] of each input, in the students' order, to [B, K]."""
        keys = self.students.inputs_at(self.students.input_size)
        logits = self.students.logits(dict(zip(keys, streams, strict=True)))
        stacked = torch.stack([*logits.values()])  # [M, B, K]
        if self.students.space == "logits":
            return (self.shares * stacked).sum(0)
        return (self.shares.log() + stacked.log_softmax(2)).logsumexp(0)


def export_onnx(students: Students, folder: Path) -> Path:
    """Writes `students.onnx` and `students.json`, after a comparison with PyTorch on random videos.

    The graph takes uint8 [batch, segments, channels, size, size] under the name of each stream (for students with
    smaller inputs than others, under `STREAM@SIZE`), with any batch and any number of segments, and gives `logits`, [batch, classes]: normalisation, consensus and fusion are inside.

    Args:
        students: on the CPU; shallow exits are left out, as a graph cannot stop early.
        folder: made if it is not there.

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
    fused = _Fused(students.eval())
    with written_whole(folder / ONNX_FILE) as graph, written_whole(folder / DESCRIPTION_FILE) as text:
        _write(fused, graph)
        _compare(fused, graph)
        description = json.dumps(students.description(with_exits=False), indent=2, ensure_ascii=False)
        text.write_text(f"{description}\n", encoding="utf-8")
    return folder


def _write(fused: _Fused, path: Path) -> None:
    names = fused.students.inputs_at(fused.students.input_size)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("segments")}
    # the exporter tells its own developers much that no user can act on
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                fused,
                tuple(random_videos(fused.students, batch=2, segments=fused.students.num_segments).values()),
                dynamo=True,
                dynamic_shapes=(tuple(dict(sizes) for _ in names),),
                input_names=list(names),
                output_names=["logits"],
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    program.save(str(path), external_data=False)


def _compare(fused: _Fused, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    students = fused.students
    for batch, segments in ((1, students.num_segments), (3, 2 * students.num_segments)):
        videos = random_videos(students, batch=batch, segments=segments)
        (found,) = session.run(["logits"], {name: values.numpy() for name, values in videos.items()})
        with torch.no_grad():
            expected = fuse(students.logits(videos), students.weights, space=students.space)  # type: ignore[arg-type]
        off = float((torch.from_numpy(found) - expected).abs().max())
        if not off <= _TOLERANCE * max(float(expected.abs().max()), 1.0):
            raise VideoKDError(
                f"the ONNX graph is off by {off:.2g} where PyTorch's largest logit is {float(expected.abs().max()):.2g}: it is not "
                "written. Export as safetensors, and report the backbone."
            )
