"""`videokd export`: a run's students alone, to load and run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import ConfigError
from videokd.models.students import save_students
from videokd.recipes.command_line import parse, say
from videokd.recipes.runs import load_run


@dataclass(frozen=True)
class Export:
    """Writes a run's networks without optimizer and teachers: students.safetensors and students.json.

    Args:
        run: folder of `videokd distill` or `videokd teach`.
        out: the folder to write.
        exits: keep the shallow exits that the students were trained with, for `videokd predict --exit_threshold`.
    """

    run: str
    out: str
    exits: bool = False


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Export, arguments, verb="export", positional=("run",))
    students = load_run(settings.run).students
    if settings.exits and not students.exits:
        raise ConfigError(
            f"{settings.run} has no exits to keep (accepted: runs of `videokd distill` with `--objective.exits`). Leave `--exits` "
            "away, or train with exits."
        )
    folder = save_students(students, Path(settings.out), with_exits=settings.exits)
    kept = ", with exits" if settings.exits else ""
    say(f"{folder}: {', '.join(students.specs)}{kept}. Next: videokd predict FILE --students {folder}")
