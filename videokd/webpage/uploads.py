"""The folder for uploads: what waits in it, and what is removed from it, while others write to it and remove from it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: An upload that nobody asked about for so long is removed: its browser has gone away.
_KEPT_SECONDS = 3600.0


def waiting_bytes(uploads: Path) -> int:
    """Bytes of all files in the folder.

    Args:
        uploads: the folder.
    """
    sizes = []
    for file in _files(uploads):
        with suppress(OSError):  # removed meanwhile
            sizes.append(file.stat().st_size)
    return sum(sizes)


def remove_left(uploads: Path) -> None:
    """Removes uploads that nobody asked about for an hour, and folders that are empty.

    Args:
        uploads: the folder.
    """
    old = time.time() - _KEPT_SECONDS
    for file in _files(uploads):
        with suppress(OSError):
            if file.stat().st_mtime < old:
                file.unlink()
    for name in _names(uploads):
        with suppress(OSError):  # a file, or not empty
            (uploads / name).rmdir()


def remove_cut_off(uploads: Path) -> None:
    """Removes uploads that did not come whole, while none is on its way: Gradio puts those that did into folders of their own.

    Args:
        uploads: the folder.
    """
    for name in _names(uploads):
        with suppress(OSError):  # a folder
            (uploads / name).unlink()


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder; unlike `Path.rglob`, without an error where a folder is removed meanwhile."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
