"""`videokd export`: only a run's students and their model card, to load and run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import videokd
from videokd.cards.model_card import CARD_FILES, is_unchanged_card, write_card
from videokd.errors import ConfigError
from videokd.exports.calibration import calibration_clips, videos_of
from videokd.exports.int8_file import export_int8
from videokd.exports.onnx_file import export_onnx
from videokd.exports.torch_file import export_program
from videokd.hub import check_repository, push
from videokd.messages import say
from videokd.models.export_files import DESCRIPTION_FILE, INT8_FILE, ONNX_FILE, PROGRAM_FILE, WEIGHTS_FILE
from videokd.models.finite import check_finite_predictions
from videokd.models.students_file import save_students
from videokd.recipes.command_line import parse
from videokd.runs.run_folder import TrainedRun, load_run


@dataclass(frozen=True)
class Export:
    """Writes a run's networks without optimizer and teachers.

    Args:
        run: folder of `videokd distill` or `videokd teach`.
        out: the folder to write.
        format: safetensors, for videokd with PyTorch (students.safetensors); onnx, for ONNX Runtime and others, which need no PyTorch
            (students.onnx; needs the extra videokd[onnx]); or torch, for PyTorch without videokd (students.pt2, of torch.export). Graphs take uint8
            streams and give fused logits.
        exits: keep the shallow exits that the students were trained with: for `videokd predict --exit_threshold`, or as further outputs of
            a graph, `STUDENT:exit1` and so on.
        int8: with onnx, write students.int8.onnx too, with weights and activations in 8 bits.
        calibration_clips: training clips, at most, for int8: half of them measure ranges of activations, the others choose among three.
        push: upload what was written to this repository of the Hugging Face Hub, owner/name; a new one is private (needs the extra
            videokd[hub], and a token: `hf auth login`).
    """

    run: str
    out: str
    format: Literal["safetensors", "onnx", "torch"] = "safetensors"
    exits: bool = False
    int8: bool = False
    calibration_clips: int = 64
    push: str | None = None

    def __post_init__(self) -> None:
        if self.push is not None:
            check_repository(self.push, where="push")
        if self.int8 and self.format != "onnx":
            raise ConfigError(
                f"int8 is for ONNX, and format is {self.format} (accepted: onnx). Add `--format onnx`, or omit `--int8`."
            )
        if not 1 <= self.calibration_clips <= 10_000:
            raise ConfigError(
                f"calibration_clips is {self.calibration_clips} (accepted: 1 to 10000). Correct the setting."
            )


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Export, arguments, verb="export", positional=("run",))
    run, folder = load_run(settings.run), Path(settings.out)
    check_finite_predictions(run.students, where=settings.run)
    if settings.exits and not run.students.exits:
        raise ConfigError(
            f"{settings.run} has no exits to keep (accepted: runs of `videokd distill` with `--objective.exits`). Omit `--exits`, "
            "or train with exits."
        )
    if settings.format == "onnx":
        _write_graphs(settings, run, folder)
    elif settings.format == "torch":
        export_program(run.students, folder, with_exits=settings.exits)
        _publish(settings, run, [PROGRAM_FILE])
        say(f"{folder}: {PROGRAM_FILE}, equal to the students on random videos; {_inputs_of(run)}.")
    else:
        save_students(run.students, folder, with_exits=settings.exits)
        kept = ", with exits" if settings.exits else ""
        _publish(settings, run, [WEIGHTS_FILE, DESCRIPTION_FILE])
        where = f"hf://{settings.push}" if settings.push else folder
        say(f"{folder}: {', '.join(run.students.specs)}{kept}. Next: videokd predict FILE --students {where}")


def _write_graphs(settings: Export, run: TrainedRun, folder: Path) -> None:
    clips = calibration_clips(run, most=settings.calibration_clips) if settings.int8 else None
    export_onnx(run.students, folder, with_exits=settings.exits)
    say(f"{folder}: {ONNX_FILE}, equal to PyTorch on random videos; {_inputs_of(run)}.")
    files = [ONNX_FILE, DESCRIPTION_FILE]
    if clips is not None:
        made = export_int8(folder / ONNX_FILE, [*videos_of(clips)])
        say(
            f"{folder}: {INT8_FILE}, calibrated with {len(clips)} training clips. Of the {made.judged} of them that measured no range, "
            f"{100 * made.same_label:.0f} % get the same label as in fp32; logits differ by {100 * made.logit_error:.1f} %. Measure its "
            "accuracy before you use it."
        )
        files.append(INT8_FILE)
    _publish(settings, run, files)
    say(f"Next: videokd predict FILE --students {folder / (ONNX_FILE if clips is None else INT8_FILE)}")


def _inputs_of(run: TrainedRun) -> str:
    return f"inputs {', '.join(run.students.inputs_at(run.students.input_size))}"


def _publish(settings: Export, run: TrainedRun, files: list[str]) -> None:
    """Writes the model card beside the files, and uploads them all where that is asked for."""
    folder = Path(settings.out)
    write_card(folder, run, repository=settings.push)
    if settings.push is None:
        return
    names = [name for name in (*files, *CARD_FILES) if (folder / name).is_file()]
    page = push(folder, settings.push, names=names, version=videokd.__version__, may_replace=is_unchanged_card)
    say(f"{page}: {', '.join(names)}")
