"""Students as a program of torch.export: PyTorch without videokd and timm runs it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from videokd.exports.fused import Fused, compare, errors_only, evaluated
from videokd.files import written_whole
from videokd.models.export_files import PROGRAM_FILE
from videokd.models.students import Students


def export_program(students: Students, folder: Path, *, with_exits: bool = False) -> Path:
    """Writes `students.pt2`, after a comparison with the students on random videos.

    `torch.export.load("students.pt2", extra_files=texts).module()` takes and gives what the graph of `export_onnx` does: uint8 streams in
    the order of the text `inputs`, and a tuple of logits. `texts`, such as {"class_names": "", "inputs": ""}, then has the same texts too.

    Args:
        students: on the CPU.
        folder: made if it is not there.
        with_exits: give the logits of shallow exits too, where there are any.

    Returns:
        The folder.

    Raises:
        VideoKDError: the program gives something else than the students.
        DataError: the file cannot be written.
    """
    with evaluated(students), written_whole(folder / PROGRAM_FILE) as aside:
        fused = Fused(students, with_exits=with_exits)
        with errors_only("torch.export"), warnings.catch_warnings(action="ignore"):
            program = torch.export.export(fused, fused.example, dynamic_shapes=fused.dynamic_shapes)
            content = io.BytesIO()  # PyTorch's own error of a full disk does not say so
            torch.export.save(program, content, extra_files=fused.metadata)
            computed = torch.export.load(io.BytesIO(content.getvalue())).module()
        compare(fused, lambda videos: computed(*videos.values()), file=Path(PROGRAM_FILE))
        aside.write_bytes(content.getvalue())
    return folder
