"""Checkpoints: written whole or not at all, read without running code from the file, exact enough to resume bit by bit."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videokd.errors import DataError
from videokd.files import written_whole

_FORMAT = "videokd-checkpoint"
_VERSION = 1


def save_checkpoint(path: str | os.PathLike[str], payload: Mapping[str, Any]) -> None:
    """Writes a checkpoint aside, then renames it.

    Args:
        path: of the file; its folder must be there.
        payload: state dicts, tensors, numbers, strings and containers of these: what torch loads with weights_only.

    Raises:
        DataError: it could not be written, for example because the disk is full; an older one is untouched.
    """
    content = {"format": _FORMAT, "version": _VERSION, "payload": dict(payload)}
    with written_whole(path, durable=True) as aside:
        try:
            with aside.open(
                "wb"
            ) as file:  # given a path, torch would write it in C++, which forgets the system's reason
                torch.save(content, file)
        except RuntimeError as error:  # torch has stopped in the middle of its archive
            raise _reason(error) or OSError(str(error).partition("\n")[0]) from error


def _reason(error: BaseException | None) -> OSError | None:
    """The system's error, such as a full disk, while which another one came."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_checkpoint` was given, tensors on the CPU.

    Args:
        path: of the file.

    Returns:
        {name: tensor, number, text, or a mapping or sequence of these}.

    Raises:
        DataError: the file is missing, damaged, or no checkpoint of videokd.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing (accepted: a checkpoint of videokd). Give the folder of a run that has one."
        )
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise DataError(
            f"{path} is damaged or not a checkpoint ({reason:.200}). Delete it, or take an older one."
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != _VERSION:
        raise DataError(
            f"{path} is not a checkpoint of videokd (accepted: {_FORMAT}, version {_VERSION}). Give another one."
        )
    payload = content.get("payload")
    if not isinstance(payload, dict):
        raise DataError(f"{path} is damaged: it holds no payload. Delete it, or take an older one.")
    return payload


def _check_archive(path: Path) -> None:
    """Refuses what torch.save does not write: other formats than its archives, compressed tensors, which could grow, and wrong checksums.

    Raises:
        ValueError: says what is wrong.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{member.filename:.80} is compressed, to be {member.file_size} bytes")
        rotten = archive.testzip()  # torch.load compares no checksums: weights would be other numbers without a word
        if rotten is not None:
            raise ValueError(f"the checksum of {rotten:.80} is wrong")


def first_difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What keeps one state dict from fitting another: the first name that is missing or of another shape, in words.

    Args:
        wanted: {name: tensor}.
        found: the same of the other.

    Returns:
        For a message; None where they fit.

    >>> first_difference({"weight": torch.zeros(2)}, {"weight": torch.zeros(3)})
    'weight is [3] instead of [2]'
    """
    for name in [*wanted, *found]:
        shapes = [list(state[name].shape) if name in state else "missing" for state in (wanted, found)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[1]} instead of {shapes[0]}"
    return None


def strict_load(module: nn.Module, state: Mapping[str, Tensor], *, path: str | os.PathLike[str]) -> None:
    """Loads a state dict that must fit the module exactly.

    Args:
        module: takes the state.
        state: {name: tensor}.
        path: where the state comes from, for the error.

    Raises:
        DataError: names the first entry that is missing, not wanted, or of another shape.
    """
    check_state(state, path=path)
    wanted = module.state_dict()
    difference = first_difference(wanted, state)
    if difference:
        raise DataError(f"{path} is of another architecture: {difference}. Use the settings it was trained with.")
    for name, values in state.items():
        if values.is_floating_point() != wanted[name].is_floating_point():
            raise DataError(
                f"{path} is damaged: {name} is {values.dtype}, not {wanted[name].dtype}. Take an older one."
            )
    module.load_state_dict(state)


def check_state(state: Any, *, path: str | os.PathLike[str]) -> None:
    """Refuses what is not a state dict: a tensor with values for each name.

    Args:
        state: of a file.
        path: of the file, for the error.

    Raises:
        DataError: says what is there instead.
    """
    if not isinstance(state, Mapping):
        raise DataError(f"{path} is damaged: its weights are a {type(state).__name__}. Take an older one.")
    for name, values in state.items():
        dense = isinstance(values, Tensor) and values.layout == torch.strided and not values.is_meta
        if not dense or not isinstance(name, str):
            raise DataError(f"{path} is damaged: {name!r:.80} has no values. Take an older one.")
