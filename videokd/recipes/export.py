"""`videokd export`: only a run's students and their model card, to load and run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import videokd
from videokd.cards.model_card import CARD_FILES, is_unchanged_card, write_card
from videokd.errors import ConfigError
from videokd.hub import check_repository, push
from videokd.messages import say
from videokd.models.finite import check_finite_predictions
from videokd.models.onnx_file import ONNX_FILE, export_onnx
from videokd.models.students_file import DESCRIPTION_FILE, WEIGHTS_FILE, save_students
from videokd.recipes.command_line import parse
from videokd.runs.run_folder import TrainedRun, load_run


@dataclass(frozen=True)
class Export:
    """Writes a run's networks without optimizer and teachers: students.safetensors, or students.onnx, and students.json.

    Args:
        run: folder of `videokd distill` or `videokd teach`.
        out: the folder to write.
        format: safetensors, for videokd and PyTorch; or onnx, for other runtimes: uint8 streams in, fused logits out (needs the extra
            videokd[onnx]).
        exits: keep the shallow exits that the students were trained with, for `videokd predict --exit_threshold`.
        push: upload what was written to this repository of the Hugging Face Hub, owner/name; a new one is private (needs the extra
            videokd[hub], and a token: `hf auth login`).
    """

    run: str
    out: str
    format: Literal["safetensors", "onnx"] = "safetensors"
    exits: bool = False
    push: str | None = None

    def __post_init__(self) -> None:
        if self.push is not None:
            check_repository(self.push, where="push")
        if self.exits and self.format == "onnx":
            raise ConfigError(
                "exits are for safetensors: an ONNX graph cannot stop early (accepted: exits with safetensors). Omit `--exits`."
            )


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Export, arguments, verb="export", positional=("run",))
    run = load_run(settings.run)
    students = run.students
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
        _publish(settings, run, [ONNX_FILE, DESCRIPTION_FILE])
        return
    folder = save_students(students, Path(settings.out), with_exits=settings.exits)
    kept = ", with exits" if settings.exits else ""
    _publish(settings, run, [WEIGHTS_FILE, DESCRIPTION_FILE])
    where = f"hf://{settings.push}" if settings.push else folder
    say(f"{folder}: {', '.join(students.specs)}{kept}. Next: videokd predict FILE --students {where}")


def _publish(settings: Export, run: TrainedRun, files: list[str]) -> None:
    """Writes the model card beside the files, and uploads them all where that is asked for."""
    folder = Path(settings.out)
    write_card(folder, run, repository=settings.push)
    if settings.push is None:
        return
    names = [name for name in (*files, *CARD_FILES) if (folder / name).is_file()]
    page = push(folder, settings.push, names=names, version=videokd.__version__, may_replace=is_unchanged_card)
    say(f"{page}: {', '.join(names)}")
