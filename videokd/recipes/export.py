"""`videokd export`: a run's students alone, to load and run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.models.students import save_students
from videokd.recipes.command_line import parse, say
from videokd.recipes.runs import load_run


@dataclass(frozen=True)
class Export:
    """Writes a run's networks without optimizer, teachers and exits: students.safetensors and students.json.

    Args:
        run: folder of `videokd distill` or `videokd teach`.
        out: the folder to write.
    """

    run: str
    out: str


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Export, arguments, verb="export", positional=("run",))
    students = load_run(settings.run).students
    folder = save_students(students, Path(settings.out))
    say(f"{folder}: {', '.join(students.specs)}. Next: videokd predict FILE --students {folder}")
