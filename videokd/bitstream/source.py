"""Where the bytes of a video are: in a file, in memory, or behind a file object, which may be an object store's."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from videokd.errors import ConfigError, DecodeError

_PIECE = 1 << 20


class Readable(Protocol):
    """A file that is open for reading in binary mode."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes; fewer only at the end of the file."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Moves to a byte; its number."""


class _FileObject(Protocol):
    """What callers hand in: as `Readable`, but reads may be short."""

    def read(self, size: int, /) -> Any: ...

    def seek(self, offset: int, whence: int = ..., /) -> Any: ...


Openable = str | os.PathLike[str] | bytes | bytearray | memoryview | _FileObject


class Source:
    """The bytes of a video; as text, its name in messages.

    A file object is read from its first byte, wherever it stands. It is never closed; where it stands afterwards is not defined.

    Args:
        given: a path, the bytes themselves, or a file object: anything with `read` and `seek`, opened in binary mode.

    Raises:
        ConfigError: it is none of these.
        DecodeError: the file object cannot seek, or is closed.
    """

    def __init__(self, given: Openable) -> None:
        self.path: Path | None = None
        self._content: bytes | None = None
        self._file: Any = None
        if isinstance(given, (str, os.PathLike)):
            self.path = Path(given)
            self.name = str(self.path)
        elif isinstance(given, (bytes, bytearray, memoryview)):
            self._content = bytes(given)
            self.name = "<bytes>"
        elif callable(getattr(given, "read", None)):
            self._file = given
            self._process = os.getpid()
            self.name = _name_of(given)
            self._size = self._find_size()
        else:
            raise ConfigError(
                f"{given!r:.60} (accepted: a path, bytes, or a file object that is open in binary mode). Give one of these."
            )

    def __str__(self) -> str:
        return self.name

    @property
    def size(self) -> int:
        """In bytes."""
        if self.path is not None:
            return self.path.stat().st_size
        return self._size if self._content is None else len(self._content)

    @property
    def suffix(self) -> str:
        """Of its name, such as .mp4: FFmpeg needs it to recognise some raw formats; empty if there is none that is plain."""
        suffix = PurePath(self.name).suffix
        return suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ""

    def open(self) -> AbstractContextManager[Readable]:
        """Opens it at its first byte; leaving the context closes a file that was named by its path, and nothing else."""
        return nullcontext(SourceView(self)) if self.path is None else open(self.path, "rb")

    def as_array(self) -> npt.NDArray[np.uint8]:
        """uint8 [size]: all bytes, as a map of a file, so that they take no memory; those of a file object are copied to one."""
        if self._content is not None:
            return np.frombuffer(self._content, np.uint8)
        if self.path is not None:
            return np.memmap(self.path, np.uint8, "r")
        with tempfile.TemporaryFile() as copy:
            view = SourceView(self)
            while piece := view.read(_PIECE):
                copy.write(piece)
            copy.flush()
            return np.memmap(copy, np.uint8, "r")

    def read_at(self, start: int, size: int) -> bytes:
        """Bytes of it, fewer only at its end; not for paths.

        Args:
            start: number of the first byte.
            size: how many.

        Raises:
            ConfigError: this process was forked since the file object was given.
            DecodeError: the file object fails, or gives something else.
        """
        if self._content is not None:
            return self._content[start : start + size]
        pieces: list[bytes] = []
        missing = min(size, self._size - start)
        if self._process != os.getpid() and not isinstance(self._file, io.BytesIO):
            raise ConfigError(
                f"{self.name} was opened by another process, which moves in it too (accepted: a file object of this process). "
                "Open it in each process, or give its path or bytes."
            )
        try:
            if missing > 0:
                self._file.seek(start)
            while missing > 0 and (piece := self._file.read(missing)):
                if not isinstance(piece, (bytes, bytearray, memoryview)) or len(piece) > missing:
                    raise TypeError(f"asked for {missing} bytes, its read gave {_described(piece)}")
                pieces.append(bytes(piece))
                missing -= len(piece)
        except Exception as error:  # what it may raise is up to whoever wrote it
            raise self._failed(error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _find_size(self) -> int:
        seekable = getattr(self._file, "seekable", None)
        try:
            if not callable(getattr(self._file, "seek", None)) or (seekable is not None and not seekable()):
                raise DecodeError(
                    f"{self.name} cannot seek, as a pipe or a download (accepted: a file object with read and seek). "
                    "Read it first, and give the bytes: `videokd.open(file.read())`."
                )
            end = self._file.seek(0, os.SEEK_END)
            return end if isinstance(end, int) else int(self._file.tell())
        except DecodeError:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DecodeError:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return DecodeError(
            f"{self.name} cannot be read: {cause} (accepted: a file object that is open in binary mode). "
            "Open it again, and check that reading it works."
        )


class SourceView:
    """Reads bytes or a file object from the first byte, with a position of its own, so that several views may take turns.

    FFmpeg reads through it, too. So it never gives more bytes than were asked for, and an impossible seek is a negative number,
    FFmpeg's error, and not an exception, which PyAV would keep and raise later.

    Args:
        source: bytes or a file object.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0
        #: For FFmpeg, which must not take a name for an address.
        self.name = f"video{source.suffix}"

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; fewer only at the end."""
        rest = max(self._source.size - self._at, 0)
        data = self._source.read_at(self._at, rest if size < 0 else min(size, rest))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves to a byte; its number, or a negative one if it would be before the first."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        if start + offset < 0:
            return -errno.EINVAL
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """The number of the next byte."""
        return self._at


def source_of(given: Openable | Source) -> Source:
    """The source that a caller names; one that is already made stays as it is.

    Raises:
        ConfigError, DecodeError: as for `Source`.
    """
    return given if isinstance(given, Source) else Source(given)


def _name_of(file: object) -> str:
    """The name of a file object: `name`, or the `path` of those of fsspec."""
    for attribute in ("name", "path"):
        name = getattr(file, attribute, None)
        if isinstance(name, (str, os.PathLike)) and str(name):
            return str(name)
    return f"<{type(file).__name__}>"


def _described(piece: object) -> str:
    """What a file object gave in place of bytes."""
    if isinstance(piece, str):
        return 'text: open it with mode "rb"'
    return f"{len(piece)}" if isinstance(piece, (bytes, bytearray, memoryview)) else type(piece).__name__
