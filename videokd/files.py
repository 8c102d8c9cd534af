"""Files that a reader finds whole or not at all, and folders that one process writes at a time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from videokd.errors import DataError

#: How a cell starts that a spreadsheet would compute, behind any marks that keep it from that
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
#: Names that are being written beside their files; locks that this process holds.
_unfinished: set[Path] = set()
_held: set[int] = set()


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
        _unfinished.add(aside)
        yield aside
        if durable:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        _open_to_others(aside)
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise DataError(
            f"{path} could not be written ({reason}); an older one is untouched. Check free space and permissions, then try again."
        ) from error
    finally:
        with suppress(OSError):  # where its folder could not even be made, or is a file
            aside.unlink()
        _unfinished.discard(aside)


def _open_to_others(file: Path) -> None:
    """Gives a file that a library made for its owner only the permissions that any new file has."""
    if file.stat().st_mode & 0o777 != 0o600:
        return
    usual = file.with_name(f"{file.name}.mode")
    try:
        usual.touch(mode=0o666, exist_ok=False)  # less the umask, which cannot be asked for without changing it
        file.chmod(usual.stat().st_mode & 0o777)
    finally:
        with suppress(OSError):
            usual.unlink()


def read_json(path: Path, *, most_bytes: int = 50_000_000) -> Any:
    """What a JSON file holds, whoever wrote it.

    Args:
        path: of the file.
        most_bytes: larger files are refused.

    Raises:
        ValueError: it is no file, too large, no JSON, nested too deeply, or has numbers that JSON does not know.
        OSError: it cannot be read.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"the number {name} is not finite")

    if not path.is_file():
        raise ValueError("no file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"{size} bytes (accepted: at most {most_bytes})")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV whose texts a spreadsheet shows and does not compute; `from_cell` gives a text back.

    >>> csv_text([("path", "rank"), ("=1+1", 2)])
    "path,rank\\n'=1+1,2\\n"
    """
    lines = []
    for row in rows:
        line = io.StringIO(newline="")
        # with this line end, Python quotes a lone carriage return too, which readers take for a line's end
        csv.writer(line, lineterminator="\r\n").writerow([as_cell(c) if isinstance(c, str) else c for c in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def as_cell(text: str) -> str:
    """A text as a CSV file may hold it: a spreadsheet shows it, and does not compute it.

    >>> as_cell("=1+1"), as_cell("'=1"), as_cell("clip.mp4")
    ("'=1+1", "''=1", 'clip.mp4')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """What `as_cell` was given.

    >>> from_cell("'=1+1"), from_cell("''=1"), from_cell("=1+1"), from_cell("clip.mp4")
    ('=1+1', "'=1", '=1+1', 'clip.mp4')
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def leave_at_once(line: str) -> None:
    """Ends this process, for whoever asks a second time: no half-written file stays, and no traceback.

    Args:
        line: what is said on standard error.
    """
    for aside in _unfinished:
        with suppress(OSError):
            aside.unlink()
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
    os._exit(130)


@contextmanager
def held(file: Path, *, refusal: str, shared: bool = False) -> Iterator[None]:
    """Keeps a folder to this process, by a lock on one of its files; however the process ends, the lock ends with it.

    Where the file system has no locks, or may not be written, nothing is locked.

    Args:
        file: to lock; made if it is not there. Its folder is there.
        refusal: the message where another process has it.
        shared: with others who share too.

    Raises:
        DataError: another process has it.
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
    """Whether another process keeps the folder that this file stands for."""
    if not file.is_file():
        return False
    try:
        _release(_lock(file, shared=True))
    except BlockingIOError:
        return True
    return False


def _lock(file: Path, *, shared: bool) -> int | None:
    """The locked file's descriptor, None where there are no locks; BlockingIOError where another process has it."""
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
    _let_children_go()
    return handle


def _release(lock: int | None) -> None:
    if lock is not None and lock in _held:
        _held.discard(lock)
        os.close(lock)


@cache
def _let_children_go() -> None:
    """A forked child holds its parent's locks too, and may outlive it by seconds: it lets go at once."""

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
