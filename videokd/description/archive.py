"""Describes the clips of an archive in parallel, into one table. A stopped run resumes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from videokd.description.clip import describe
from videokd.description.copies import find_copies
from videokd.description.table import TableRow, check_table_name, read_lines, read_table, write_table
from videokd.errors import DataError, DecodeError
from videokd.files import check_place, held
from videokd.jobs.failures import FAILURES_NAME, any_error_named, write_failures
from videokd.jobs.video_files import unreadable_folders, videos_in
from videokd.jobs.workers import Workers, with_bar


@dataclass(frozen=True)
class ArchiveFile:
    """One file of an archive.

    Args:
        name: as the table has it.
        file: its absolute path.
    """

    name: str
    file: Path


@dataclass(frozen=True)
class Described:
    """What `describe_archive` did.

    Args:
        rows: the rows of the table.
        failed: (path, reason) of each file that could not be described.
        reused: how many rows an earlier run had made.
    """

    rows: tuple[TableRow, ...]
    failed: tuple[tuple[str, str], ...]
    reused: int


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


def describe_archive(
    files: Sequence[ArchiveFile], out: Path, *, workers: Workers | None = None, near_duplicates: bool = True
) -> Described:
    """Describes files, and writes their table; beside it, failures.csv lists those that failed.

    If a run is stopped in any way, the same call resumes it: what is described is kept in a file beside the table, line by line. A clip
    of an existing table is described again only if its size or time of change differs.

    Args:
        files: from `files_of`.
        out: the table, .parquet or .csv.
        workers: where the work is done; None: one process per CPU.
        near_duplicates: whether to look for clips that show what an earlier clip shows.

    Returns:
        The rows, in the order of the files, and what failed.

    Raises:
        ConfigError: the table's name has another ending, or there is no Ray cluster.
        DataError: nothing could be described; the table is not one, or cannot be written; another process writes it.
    """
    check_table_name(out)
    workers = workers or Workers()
    lines = out.with_name(f"{out.name}.unfinished")
    check_place(out)
    refusal = f"{out} is being written by another `videokd describe` (accepted: one at a time). Wait until it is done."
    with held(lines, refusal=refusal), _removed_if_empty(lines):
        known = {row.description.path: row for row in read_table(out)} if out.exists() else {}
        known |= {row.description.path: row for row in read_lines(lines)}
        rows, reasons, reused = _describe_missing(files, known, lines, workers)
        failed = [(_utf8(file.name), reasons[file.name]) for file in files if file.name in reasons]
        write_failures(failures_of(out), failed)
        if not rows:
            lines.unlink(missing_ok=True)
            raise DataError(
                f"none of {len(files)} files could be described; {failures_of(out)} lists them. The first: {failed[0][1]}"
            )
        unknown = any(row.description.near_duplicate_of is None for row in rows)
        if near_duplicates and (unknown or len(known) != len(rows)):
            rows = _with_copies(files, rows, out, workers)
        write_table(out, rows)
        lines.unlink(missing_ok=True)
    return Described(tuple(rows), tuple(failed), reused)


@contextmanager
def _removed_if_empty(file: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if file.exists() and not file.stat().st_size:
            file.unlink()


def failures_of(out: Path) -> Path:
    """The CSV file of the files that could not be described, beside the table."""
    return out.with_name(f"{out.stem}.{FAILURES_NAME}")


def failures_of_folders(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(folder, reason) of each folder whose files cannot be listed."""
    for source in map(Path, sources):
        if source.is_dir():
            yield from ((str(folder), reason) for folder, reason in unreadable_folders(source))


def describe_file(file: ArchiveFile) -> TableRow:
    """Describes one file.

    Raises:
        DecodeError: it cannot be described.
    """
    try:
        modified = file.file.stat().st_mtime_ns
    except OSError as error:
        if file.file.is_symlink() and isinstance(error, FileNotFoundError):
            reason = f"is a link to {file.file.readlink()}, which is missing. Restore that file, or remove the link"
        else:
            reason = f"cannot be read ({error.strerror}). Check the file and its permissions"
        raise DecodeError(f"{file.file} {reason}.") from error
    with any_error_named(file.file, done="described"):
        return TableRow(replace(describe(file.file), path=file.name), modified)


def _describe_missing(
    files: Sequence[ArchiveFile], known: dict[str, TableRow], lines: Path, workers: Workers
) -> tuple[list[TableRow], dict[str, str], int]:
    """The rows of all files, {name: reason} of those that failed, and how many rows were known before."""
    rows: dict[str, TableRow] = {}
    reasons: dict[str, str] = {}
    todo = []
    for file in files:
        row = known.get(file.name)
        if _utf8(file.name) != file.name:
            reasons[file.name] = f"{file.name}: its name is not UTF-8, so a table cannot hold it. Rename it."
        elif row is not None and _is_unchanged(file, row):
            rows[file.name] = row
        else:
            todo.append(file)
    reused = len(rows)
    with lines.open("a", encoding="utf-8") as kept:
        if kept.tell():
            kept.write("\n")  # a run that was stopped may have left half a line
        for file, outcome in with_bar(describe_file, todo, workers, what="describe", done=reused):
            if isinstance(outcome, DecodeError):
                named = str(file.file) in str(outcome)
                reasons[file.name] = str(outcome) if named else f"{file.file}: {outcome}"
                continue
            rows[file.name] = outcome
            kept.write(f"{outcome.to_json()}\n")
            kept.flush()
    return [rows[file.name] for file in files if file.name in rows], reasons, reused


def _is_unchanged(file: ArchiveFile, row: TableRow) -> bool:
    try:
        status = file.file.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (row.description.bytes, row.modified_ns)


def _with_copies(files: Sequence[ArchiveFile], rows: Sequence[TableRow], out: Path, workers: Workers) -> list[TableRow]:
    """The rows with the clips that they are near-duplicates of."""
    places = {file.name: file.file for file in files}
    clips = [(places[row.description.path], row.description.hashes) for row in rows]
    copies = find_copies(clips, out.with_name(f"{out.name}.pictures"), workers=workers)
    return [
        replace(
            row,
            description=replace(
                row.description,
                near_duplicate_of=rows[copies[number]].description.path if number in copies else "",
            ),
        )
        for number, row in enumerate(rows)
    ]


def _utf8(name: str) -> str:
    """A name as failures.csv has it: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
