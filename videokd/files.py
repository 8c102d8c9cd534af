"""Files that a reader finds whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from videokd.errors import DataError


@contextmanager
def written_whole(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Lends a name beside a file's own; what is written there takes the file's place when the block ends well.

    Args:
        path: of the file; folders on the way are made.
        durable: wait until the content is on the disk before it takes the place of an older one.

    Yields:
        The name to write to.

    Raises:
        DataError: the file cannot be written, for example because the disk is full; an older one is untouched.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "runs" / "a.txt"
    >>> with written_whole(file) as aside:
    ...     _ = aside.write_text("done")
    >>> [path.name for path in file.parent.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    # Short, since the file's own name may be as long as the file system allows
    aside = path.parent / f".{uuid.uuid4().hex[:12]}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if durable:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise DataError(
            f"{path} could not be written ({reason}); an older one is untouched. Check free space and permissions, then try again."
        ) from error
    finally:
        with suppress(OSError):  # where its folder could not even be made, or is a file
            aside.unlink()


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Writes a file, whole or not at all.

    Args:
        path: of the file; folders on the way are made.
        content: all of it.

    Returns:
        The path.

    Raises:
        DataError: as for `written_whole`.
    """
    with written_whole(path) as aside:
        aside.write_bytes(content)
    return Path(path)
