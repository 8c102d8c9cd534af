"""Files that a reader finds whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path | str, content: bytes) -> Path:
    """Write a file beside its place, then rename it there: nobody ever reads half of it.

    Args:
        path: where the file goes; folders on the way are made.
        content: all of it.

    Returns:
        The path.

    Raises:
        OSError: the folder cannot be written; an older file of that name stays as it was.

    >>> import tempfile
    >>> write_whole(Path(tempfile.mkdtemp()) / "runs" / "a.txt", b"done").read_text()
    'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
