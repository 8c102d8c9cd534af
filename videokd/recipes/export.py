"""`videokd export`: only a run's students, to load and run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videokd.errors import ConfigError
from videokd.messages import say
from videokd.models.finite import check_finite_predictions
from videokd.models.onnx_file import export_onnx
from videokd.models.students_file import save_students
from videokd.recipes.command_line import parse
from videokd.runs.run_folder import load_run


@dataclass(frozen=True)
class Export:
    """Writes a run's networks without optimizer and teachers: students.safetensors, or students.onnx, and students.json.

    Args:
        run: folder of `videokd distill` or `videokd teach`.
        out: the folder to write.
        format: safetensors, for videokd and PyTorch; or onnx, for other runtimes: uint8 streams in, fused logits out (needs the extra
            videokd[onnx]).
        exits: keep the shallow exits that the students were trained with, for `videokd predict --exit_threshold`.
    """

    run: str
    out: str
    format: Literal["safetensors", "onnx"] = "safetensors"
    exits: bool = False

    def __post_init__(self) -> None:
        if self.exits and self.format == "onnx":
            raise ConfigError(
                "exits are for safetensors: an ONNX graph cannot stop early (accepted: exits with safetensors). Omit `--exits`."
            )


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Export, arguments, verb="export", positional=("run",))
    students = load_run(settings.run).students
    check_finite_predictions(students, where=settings.run)
    if settings.exits and not students.exits:
        raise ConfigError(
            f"{settings.run} has no exits to keep (accepted: runs of `videokd distill` with `--objective.exits`). Omit `--exits`, "
            "or train with exits."
        )
    if settings.format == "onnx":
        folder = export_onnx(students, Path(settings.out))
        say(
            f"{folder}: students.onnx, equal to PyTorch on random videos; inputs {', '.join(students.inputs_at(students.input_size))}."
        )
        return
    folder = save_students(students, Path(settings.out), with_exits=settings.exits)
    kept = ", with exits" if settings.exits else ""
    say(f"{folder}: {', '.join(students.specs)}{kept}. Next: videokd predict FILE --students {folder}")
