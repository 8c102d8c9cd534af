"""The files of an archive: found by name, and looked at before they are opened."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import DataError, DecodeError
from videokd.jobs.failures import FAILURES_NAME
from videokd.jobs.video_files import unreadable_folders, videos_in, walk_once

#: Why a file is not in a table, with its name in the place of the braces.
NOT_UTF8 = "{}: its name is not UTF-8, so a table cannot hold it. Rename it."


@dataclass(frozen=True)
class ArchiveFile:
    """One file of an archive.

    Args:
        name: as the table has it.
        file: its absolute path.
    """

    name: str
    file: Path


def files_of(sources: Sequence[str]) -> list[ArchiveFile]:
    """The files of an archive.

    Args:
        sources: files and folders. Of a single folder, names are relative to it; otherwise they are as given.

    Returns:
        Each file once; those of a folder sorted.

    Raises:
        DataError: one is not there; there are no videos.
    """
    for given in sources:
        if not given or not os.path.lexists(given):
            raise DataError(
                f"{given!r}: no such file or folder (accepted: videos, and folders with videos). Check the path."
            )
    found: dict[Path, ArchiveFile] = {}
    for source in map(Path, sources):
        for path in videos_in(source) if source.is_dir() else [source]:
            name = path.relative_to(source) if len(sources) == 1 and source.is_dir() else path
            found.setdefault(path.absolute(), ArchiveFile(name.as_posix(), path.absolute()))
    if not found:
        raise DataError(
            f"{', '.join(sources)}: no videos (accepted: files, or folders with files such as .mp4, .mkv, .avi). Check the path."
        )
    return list(found.values())


def files_named(words: Sequence[str], listed: Sequence[str] = ()) -> list[ArchiveFile]:
    """The files that words name: files, folders with videos at any depth, and patterns, as a shell expands them.

    A word that names nothing stays, so that it is reported like a file that cannot be read. Names are as given.

    Args:
        words: of a command line. A file that two words name is there twice.
        listed: further paths of files and folders, which are no patterns; of these and of what words expand to, each file is there once.

    Raises:
        DataError: a pattern matches nothing.
    """
    found: list[ArchiveFile] = []
    seen: set[Path] = set()
    for word in words:
        expanded = _expanded(word)
        found += [file for file in expanded if len(expanded) == 1 or file.file not in seen]
        seen.update(file.file for file in expanded)
    for path in listed:
        there = _files_at(path)
        found += [file for file in there if file.file not in seen]
        seen.update(file.file for file in there)
    return found


def _expanded(word: str) -> list[ArchiveFile]:
    if os.path.lexists(word) or not glob.has_magic(word):
        return _files_at(word)
    matches = sorted(set(_matches(word)))
    if not matches:
        raise DataError(f"{word!r}: nothing matches (accepted: videos, folders, and patterns such as 'in/**/*.mp4').")
    return list({file.file: file for match in matches for file in _files_at(match)}.values())


def _matches(pattern: str) -> Iterator[str]:
    """What a pattern matches. `**` is any number of folders, each once: of links in a circle, `glob` itself follows every way through."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    at = parts.index("**")
    above, below = os.sep.join([*parts[:at], ""]), os.sep.join(parts[at + 1 :])
    for start in glob.glob(above) if above else [os.curdir]:
        for folder, folders, _ in walk_once(Path(start)):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from _matches(os.path.join(glob.escape(str(folder)), below or "*"))


def _files_at(path: str) -> list[ArchiveFile]:
    """A file; or the videos of a folder, or a folder without videos itself."""
    videos = videos_in(Path(path)) if os.path.isdir(path) else []
    return [ArchiveFile(str(video), video.absolute()) for video in videos or [Path(path)]]


def listed_paths(content: bytes) -> list[str]:
    """The paths in a list: each ends with a zero byte if there is one, else each has a line; empty ones do not count.

    Args:
        content: of the list.

    Raises:
        DataError: it is UTF-16, in which every letter has a zero byte.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("the list is in UTF-16 (accepted: UTF-8). Save it as UTF-8.")
    content = content.removeprefix(codecs.BOM_UTF8)
    paths = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(path) for path in paths if path]


def failures_of(out: Path) -> Path:
    """The CSV file of the files that failed, beside the table."""
    return out.with_name(f"{out.stem}.{FAILURES_NAME}")


def failures_of_folders(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(folder, reason) of each folder whose files cannot be listed."""
    for source in map(Path, sources):
        if source.is_dir():
            yield from ((str(folder), reason) for folder, reason in unreadable_folders(source))


def status_of(file: ArchiveFile) -> os.stat_result:
    """Size and time of change of a file.

    Args:
        file: of an archive.

    Raises:
        DecodeError: it is not there, or cannot be looked at.
    """
    try:
        return file.file.stat()
    except (OSError, ValueError) as error:
        if file.file.is_symlink() and isinstance(error, FileNotFoundError):
            reason = f"is a link to {file.file.readlink()}, which is missing. Restore that file, or remove the link"
        else:
            reason = f"cannot be read ({getattr(error, 'strerror', None) or error}). Check the file and its permissions"
        raise DecodeError(f"{file.file} {reason}.") from error


def is_unchanged(file: ArchiveFile, size: int, modified_ns: int) -> bool:
    """Whether a file is what it was.

    Args:
        file: of an archive.
        size: that it had, in bytes.
        modified_ns: its time of change, in nanoseconds.
    """
    try:
        status = file.file.stat()
    except (OSError, ValueError):
        return False
    return (status.st_size, status.st_mtime_ns) == (size, modified_ns)


def reason_with_name(file: ArchiveFile, error: Exception) -> str:
    """An error's message, with the file's name before it where it does not have it.

    Args:
        file: of an archive.
        error: what it caused.
    """
    return str(error) if str(file.file) in str(error) else f"{file.file}: {error}"


def escaped(name: str) -> str:
    """A name as failures.csv has it: bytes that are not UTF-8 are escaped.

    Args:
        name: of a file.
    """
    return name.encode("utf-8", "backslashreplace").decode()
