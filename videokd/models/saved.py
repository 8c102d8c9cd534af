"""Students as two files: their weights, and a description of everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from videokd.errors import ConfigError, DataError
from videokd.files import written_whole
from videokd.models.backbone import channels_last
from videokd.models.students import Students

WEIGHTS_FILE = "students.safetensors"
DESCRIPTION_FILE = "students.json"


def save_students(students: Students, folder: str | os.PathLike[str], *, with_exits: bool = False) -> Path:
    """Writes the students as `students.safetensors` and `students.json`.

    Both are written aside and then renamed: an export that was interrupted is not half there.

    Args:
        students: on any device.
        folder: made if it is not there.
        with_exits: keep shallow exits, where there are any, for predictions that need not go all the way.

    Returns:
        The folder.

    Raises:
        DataError: they cannot be written, for example because the disk is full.
    """
    folder = Path(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _exported(students, with_exits).items()}
    description = json.dumps(students.description(with_exits=with_exits), indent=2, ensure_ascii=False) + "\n"
    with written_whole(folder / WEIGHTS_FILE) as weights, written_whole(folder / DESCRIPTION_FILE) as text:
        try:
            save_file(state, weights, metadata={"format": "pt"})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error
        text.write_text(description, encoding="utf-8")
    return folder


def load_students(path: str | os.PathLike[str]) -> Students:
    """The students that `save_students` or `videokd export` wrote, in evaluation mode, on the CPU.

    Args:
        path: their folder.

    Raises:
        DataError: the folder or one of its files is missing, damaged, or of something else; or the weights do not fit
            the description.
    """
    folder = Path(path)
    what_next = "Give the folder that `videokd export` wrote."
    for file in (folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE):
        if not file.is_file():
            raise DataError(f"{file} is missing (accepted: {DESCRIPTION_FILE} beside {WEIGHTS_FILE}). {what_next}")
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        students = Students.from_description(description)
    except (ValueError, AttributeError, ConfigError) as error:
        raise DataError(f"{folder / DESCRIPTION_FILE} does not describe students: {error} {what_next}") from error
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{folder / WEIGHTS_FILE} is damaged ({error}). Export the students again.") from error
    difference = _first_difference(students.state_dict(), state)
    if difference:
        raise DataError(
            f"{folder / WEIGHTS_FILE} is of another architecture than {DESCRIPTION_FILE} says: {difference}."
        )
    students.load_state_dict(state)
    # The streams' channels lie side by side in memory: with filters that do too, a CPU takes a quarter less time
    return channels_last(students).eval()


def _exported(students: Students, with_exits: bool) -> dict[str, Tensor]:
    """The state, with or without the shallow exits; an exit's bottleneck goes with it, as its classifier stands on it."""
    state = students.state_dict()
    return {name: tensor for name, tensor in state.items() if with_exits or not name.startswith("exits.")}


def _first_difference(described: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for name in [*described, *found]:
        shapes = [list(state[name].shape) if name in state else "missing" for state in (described, found)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[1]} instead of {shapes[0]}"
    return None
