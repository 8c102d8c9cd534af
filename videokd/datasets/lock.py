"""One writer at a time in a dataset's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from videokd.errors import DataError


@contextlib.contextmanager
def writing_alone(out: Path, file: Path, *, shared: bool = False) -> Iterator[None]:
    """Keeps a dataset's folder to this process; however the process ends, the operating system lets go of it.

    Where the file system knows no locks, or may not be written, nothing is kept.

    Args:
        out: the dataset's folder, for the message.
        file: to lock; its folder is there.
        shared: with others who share too.

    Raises:
        DataError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            handle = stack.enter_context(file.open("a+b"))
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"{out} is being written by another `videokd prepare` (accepted: one at a time, or shares with "
                    "--shard i/n). Wait until it is done, or choose another --out."
                ) from error
        yield
