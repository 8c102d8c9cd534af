"""Safe files: written whole or not at all, read with limits, as CSV without formulas; and locks on folders."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from videokd.errors import DataError

#: The SHA-256 of a file, as `sha256_of` gives it.
SHA256 = re.compile("[0-9a-f]{64}")
#: The start of a cell that a spreadsheet would take for a formula, after any apostrophes.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
#: Temporary files that are being written.
_unfinished: set[Path] = set()
#: Temporary folders that are in use.
_temporary: set[Path] = set()
#: File descriptors of the locks that this process holds.
_held: set[int] = set()


@contextmanager
def written_whole(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Gives the path of a temporary file, which replaces the file itself when the block ends without an error.

    Args:
        path: the file; its folders are made where they are missing.
        durable: wait until the content is on the disk before it replaces an older file.

    Yields:
        The path to write to, in the same folder.

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
    # Short, because the file's own name can be as long as the file system allows
    aside = path.parent / f".{uuid.uuid4().hex[:12]}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _unfinished.add(aside)
        yield aside
        if durable:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        _set_usual_permissions(aside)
        os.replace(aside, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):  # its folder could not be made, or is a file
            aside.unlink()
        _unfinished.discard(aside)


@contextmanager
def temporary_folder(prefix: str = "") -> Iterator[Path]:
    """A folder for files that nobody needs afterwards; `leave_at_once` removes it too.

    Args:
        prefix: what its name begins with, after "videokd-".

    Yields:
        The folder, in the system's folder for temporary files.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"videokd-{prefix}"))
    except OSError as error:
        raise _not_written(Path(tempfile.gettempdir()), error) from error
    _temporary.add(folder)
    try:
        yield folder
    finally:
        _remove_folder(folder)
        _temporary.discard(folder)


def remove_temporary(prefix: str) -> None:
    """Removes what killed processes left of their temporary folders.

    Args:
        prefix: that their names had; nobody else may use it.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"videokd-{prefix}*"):
        _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    """Removes a folder, also where another thread is still making files in it."""
    away = folder.with_name(f"{folder.name}.gone")
    with suppress(OSError):
        folder.rename(away)  # files can no longer be made in it by its name
    for left in (away, folder):
        shutil.rmtree(left, ignore_errors=True)


def _not_written(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error).partition("\n")[0]
    older = "; an older one is untouched" if os.path.lexists(path) else ""
    return DataError(
        f"{path} could not be written ({reason}){older}. Check free space and permissions, then try again."
    )


def check_place(path: Path) -> None:
    """Checks, before long work, that a file can be written.

    Args:
        path: the file; its folders are made where they are missing.

    Raises:
        DataError: it cannot, or it is a folder.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder (accepted: the name of a file to write). Add a name.")
    aside = path.parent / f".{uuid.uuid4().hex[:12]}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def _set_usual_permissions(file: Path) -> None:
    """Gives a file that a library made readable for its owner only the permissions of any new file."""
    if file.stat().st_mode & 0o777 != 0o600:
        return
    usual = file.with_name(f"{file.name}.mode")
    try:
        usual.touch(mode=0o666, exist_ok=False)  # less the umask, which can only be read by changing it
        file.chmod(usual.stat().st_mode & 0o777)
    finally:
        with suppress(OSError):
            usual.unlink()


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left of files it was writing; for whoever holds the folder's lock."""
    for aside in folder.glob(".*.part"):
        if re.fullmatch(r"\.[0-9a-f]{12}\.part", aside.name):
            aside.unlink(missing_ok=True)


def read_json(path: Path, *, most_bytes: int = 50_000_000) -> Any:
    """Reads a JSON file from an unknown source.

    Args:
        path: the file.
        most_bytes: larger files are refused.

    Returns:
        The value.

    Raises:
        ValueError: it is not a file, too large, not JSON, nested too deeply, or has numbers that JSON does not have (NaN).
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError("no file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"{size} bytes (accepted: at most {most_bytes})")
    return parsed_json(path.read_text(encoding="utf-8"))


def parsed_json(text: str) -> Any:
    """The value of a JSON text from an unknown source.

    Raises:
        ValueError: it is not JSON, nested too deeply, or has numbers that JSON does not have (NaN).
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"the number {name} is not finite")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can write a text: JSON and names of files can hold halves of letters, which no table can.

    >>> is_utf8("wäve"), is_utf8(parsed_json('"\\\\ud800"'))
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Writes a file, whole or not at all.

    Args:
        path: the file; its folders are made where they are missing.
        content: the whole content.

    Returns:
        The path.

    Raises:
        DataError: as for `written_whole`.
    """
    with written_whole(path) as aside:
        aside.write_bytes(content)
    return Path(path)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, with texts that a spreadsheet does not take for formulas; `from_cell` reverts a text.

    >>> csv_text([("path", "rank"), ("=1+1", 2)])
    "path,rank\\n'=1+1,2\\n"
    """
    lines = []
    for row in rows:
        line = io.StringIO(newline="")
        # with this line end, Python also quotes a lone carriage return, which readers take for the end of a line
        csv.writer(line, lineterminator="\r\n").writerow([as_cell(c) if isinstance(c, str) else c for c in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def as_cell(text: str) -> str:
    """A text for a CSV file, with an apostrophe before what a spreadsheet would take for a formula.

    >>> as_cell("=1+1"), as_cell("'=1"), as_cell("clip.mp4")
    ("'=1+1", "''=1", 'clip.mp4')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The text that `as_cell` was given.

    >>> from_cell("'=1+1"), from_cell("''=1"), from_cell("=1+1"), from_cell("clip.mp4")
    ('=1+1', "'=1", '=1+1', 'clip.mp4')
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def leave_at_once(line: str, *, status: int = 130) -> None:
    """Ends this process at once: without a traceback, and without leaving temporary files.

    Args:
        line: printed on standard error; an empty one is not.
        status: of the process; that of a program that Ctrl-C ended.
    """
    try:
        for aside in list(_unfinished):  # another thread may be adding to it
            with suppress(OSError):
                aside.unlink()
        for folder in list(_temporary):
            _remove_folder(folder)
        with suppress(OSError):
            os.write(2, f"{line}\n".encode() if line else b"")
    finally:
        os._exit(status)


@contextmanager
def held(file: Path, *, refusal: str, shared: bool = False) -> Iterator[None]:
    """Locks a folder for this process, by a lock on one of its files. The lock ends with the process, however that ends.

    Where the file system has no locks, or cannot be written, nothing is locked.

    Args:
        file: the file to lock, in an existing folder; made if it does not exist.
        refusal: the message of the error.
        shared: allow other processes that share too.

    Raises:
        DataError: another process has locked it.
    """
    try:
        lock = _lock(file, shared=shared)
    except BlockingIOError as error:
        raise DataError(refusal) from error
    try:
        yield
    finally:
        _release(lock)


def is_held(file: Path) -> bool:
    """Whether another process has locked the folder of this file exclusively (`held` without `shared`)."""
    if not file.is_file():
        return False
    try:
        _release(_lock(file, shared=True))
    except BlockingIOError:
        return True
    return False


def _lock(file: Path, *, shared: bool) -> int | None:
    """The locked file's descriptor; None where there are no locks; BlockingIOError where another process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    _held.add(handle)
    _release_in_children()
    return handle


def _release(lock: int | None) -> None:
    if lock is not None and lock in _held:
        _held.discard(lock)
        os.close(lock)


@cache
def _release_in_children() -> None:
    """Makes forked children release their parent's locks, which they inherit, because they may outlive it by seconds."""

    def close_all() -> None:
        for handle in _held:
            os.close(handle)
        _held.clear()

    os.register_at_fork(after_in_child=close_all)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
