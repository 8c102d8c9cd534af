"""One writer at a time in a dataset's folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from videokd.files import held


def writing_alone(out: Path, file: Path, *, shared: bool = False) -> AbstractContextManager[None]:
    """Keeps a dataset's folder to this process, as `videokd.files.held` does.

    Args:
        out: the dataset's folder, for the message.
        file: to lock; its folder is there.
        shared: with others who share too.

    Raises:
        DataError: another process has it.
    """
    refusal = (
        f"{out} is being written by another `videokd prepare` (accepted: one at a time, or shares with "
        "--shard i/n). Wait until it is done, or choose another --out."
    )
    return held(file, refusal=refusal, shared=shared)
