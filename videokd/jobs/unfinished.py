"""What a run over many files has done so far: lines in a file beside the table that it will write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from videokd.errors import DataError
from videokd.files import check_place, held


@contextmanager
def unfinished_table(out: Path, *, verb: str) -> Iterator[Path]:
    """Holds, for one process, the file of lines beside a table; an empty one is removed at the end.

    Args:
        out: the table.
        verb: what writes it, for messages.

    Yields:
        The file of lines.

    Raises:
        DataError: the table cannot be written, or another process writes it.
    """
    lines = out.with_name(f"{out.name}.unfinished")
    check_place(out)
    refusal = f"{out} is being written by another `videokd {verb}` (accepted: one at a time). Wait until it is done."
    with held(lines, refusal=refusal):
        try:
            yield lines
        finally:
            if lines.exists() and not lines.stat().st_size:
                lines.unlink()


class Lines:
    """A file of lines, each written at once; a context manager.

    Args:
        file: made where it is missing. Half a line at its end, which a stopped run may have left, is ended.

    Raises:
        DataError: it cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise self._full(error) from error
        self._size = os.fstat(self._handle).st_size
        if self._size and os.pread(self._handle, 1, self._size - 1) != b"\n":
            self._write(b"\n")

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def append(self, line: str) -> int:
        """Writes one line.

        Args:
            line: without its end.

        Returns:
            Where it begins, in bytes.

        Raises:
            DataError: it cannot be written, for example because the disk is full; what was written before is kept.
        """
        start = self._size
        self._write(f"{line}\n".encode())
        return start

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """(where it begins, line) of each line that is there so far."""
        start = 0
        with open(self._file, "rb") as file:
            for line in file:
                yield start, line.decode("utf-8", "replace")
                start += len(line)

    def at(self, start: int) -> str:
        """The line that begins at a byte."""
        pieces = b""
        while b"\n" not in pieces and (piece := os.pread(self._handle, 1 << 14, start + len(pieces))):
            pieces += piece
        return pieces.partition(b"\n")[0].decode()

    def _write(self, content: bytes) -> None:
        try:
            while content:
                written = os.write(self._handle, content)
                self._size += written
                content = content[written:]
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> DataError:
        return DataError(
            f"{self._file} could not be written ({error.strerror}). Check free space and permissions; the same command resumes."
        )
