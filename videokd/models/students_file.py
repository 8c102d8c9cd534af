"""Students as two files: their weights, and a description of everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from videokd.errors import ConfigError, DataError
from videokd.files import is_utf8, read_json, written_whole
from videokd.hub import local_folder
from videokd.models.backbone import channels_last
from videokd.models.export_files import DESCRIPTION_FILE, WEIGHTS_FILE
from videokd.models.students import Students
from videokd.models.transfer import state_sha256
from videokd.types import check_encoding

_MOST_MEMBERS, _MOST_SEGMENTS = 64, 1000
#: A text beside the weights: their SHA-256, without which a few changed bytes may change answers and nothing else.
_DIGEST = "sha256"


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
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in students.kept_state(with_exits=with_exits).items()
    }
    description = json.dumps(students.description(with_exits=with_exits), indent=2, ensure_ascii=False) + "\n"
    with written_whole(folder / WEIGHTS_FILE) as weights, written_whole(folder / DESCRIPTION_FILE) as text:
        try:
            save_file(state, weights, metadata={"format": "pt", _DIGEST: state_sha256(state)})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error
        text.write_text(description, encoding="utf-8")
    return folder


def load_students(path: str | os.PathLike[str]) -> Students:
    """The students that `save_students` or `videokd export` wrote, in evaluation mode, on the CPU.

    Args:
        path: their folder, or a repository of the Hugging Face Hub: `hf://owner/name` or `hf://owner/name@revision`. Of a repository only
            these two files are downloaded, and nothing in them is code.

    Raises:
        ConfigError: the address of a repository is wrong, or huggingface_hub is not installed.
        DataError: the folder or one of its files is missing, damaged, or of something else; the weights do not fit
            the description; or the repository cannot be read.
    """
    folder = local_folder(path, names=(DESCRIPTION_FILE, WEIGHTS_FILE))
    what_next = "Give the folder that `videokd export` wrote."
    for file in (folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE):
        if not file.is_file():
            raise DataError(f"{file} is missing (accepted: {DESCRIPTION_FILE} beside {WEIGHTS_FILE}). {what_next}")
    try:
        description = read_json(folder / DESCRIPTION_FILE)
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            texts = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        students = build_described(description, shapes)
    except ShapesDiffer as error:
        raise DataError(
            f"{folder / WEIGHTS_FILE} is of another architecture than {DESCRIPTION_FILE} says: {error}. {what_next}"
        ) from error
    except (ValueError, ConfigError) as error:
        raise DataError(f"{folder / DESCRIPTION_FILE} does not describe students: {error} {what_next}") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{folder / WEIGHTS_FILE} is damaged ({error}). Export the students again.") from error
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise DataError(f"{folder / WEIGHTS_FILE} is damaged ({error}). Export the students again.") from error
    if _DIGEST in texts and texts[_DIGEST] != state_sha256(state):
        raise DataError(
            f"{folder / WEIGHTS_FILE} is damaged: its weights are not those that were written. Export the students again."
        )
    wanted = students.state_dict()
    other = next((n for n, t in state.items() if t.dtype.is_floating_point != wanted[n].dtype.is_floating_point), None)
    if other is not None:
        raise DataError(f"{folder / WEIGHTS_FILE}: {other} is {state[other].dtype}. Export the students again.")
    students.load_state_dict(state)
    students.check_finite(where=str(folder / WEIGHTS_FILE))
    # The streams' channels lie side by side in memory: with filters that do too, a CPU takes a quarter less time
    return channels_last(students).eval()


class ShapesDiffer(ConfigError):
    """Weights are not those that a description asks for."""


def build_described(description: Any, shapes: Mapping[str, Sequence[int]]) -> Students:
    """Students from a description that may come from anybody, with random weights.

    Before any memory is taken for them, they are built without memory, and compared with the shapes of the weights that are
    there: a few words can describe a network of many gigabytes.

    Args:
        description: what `Students.description` gives, or anything else.
        shapes: {name: shape} of the weights.

    Raises:
        ShapesDiffer: names the first weight that is missing, not wanted, or of another shape.
        ConfigError: it describes no students.
    """
    _check_description(description)
    try:
        with torch.device("meta"):
            wanted = {n: tuple(t.shape) for n, t in Students.from_description(description).state_dict().items()}
        for name in [*wanted, *shapes]:
            found = [list(each[name]) if name in each else "missing" for each in (wanted, shapes)]
            if found[0] != found[1]:
                raise ShapesDiffer(f"{name} is {found[1]} instead of {found[0]}")
        return Students.from_description(description)
    except ConfigError:
        raise
    except Exception as error:  # a description can be wrong in more ways than the networks' libraries look for
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ConfigError(f"the networks cannot be built ({reason:.200}).") from error


def _check_description(description: Any) -> None:
    """Refuses what would not fit at its first use.

    Raises:
        ConfigError: says what.
    """
    if not isinstance(description, Mapping):
        raise ConfigError(f"it is a {type(description).__name__} (accepted: an object).")
    names, members = description.get("class_names"), description.get("members")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n and is_utf8(n) for n in names):
        raise ConfigError("class_names is not a list of names, which UTF-8 can write.")
    if not isinstance(members, Mapping) or not 1 <= len(members) <= _MOST_MEMBERS:
        raise ConfigError(f"members is not an object of 1 to {_MOST_MEMBERS} networks.")
    for member in members.values():
        known = isinstance(member, Mapping) and {key: member.get(key) for key in ("num_classes", "input_size")}
        if not known or known["num_classes"] != len(names) or type(known["input_size"]) is not int:
            raise ConfigError(f"a network has {known or 'no settings'} (accepted: {len(names)} classes, and a size).")
    segments = description.get("num_segments")
    if type(segments) is not int or not 1 <= segments <= _MOST_SEGMENTS:
        raise ConfigError(f"num_segments is {segments!r:.80} (accepted: 1 to {_MOST_SEGMENTS}).")
    check_encoding(description.get("encoding"))
