"""Describes the clips of an archive in parallel, into one table. A stopped run resumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videokd.description.clip import describe
from videokd.description.copies import find_copies
from videokd.description.table import TableRow, check_table_name, read_lines, read_table, write_table
from videokd.errors import DataError, DecodeError
from videokd.jobs.archive_files import (
    NOT_UTF8,
    ArchiveFile,
    escaped,
    failures_of,
    is_unchanged,
    reason_with_name,
    status_of,
)
from videokd.jobs.failures import any_error_named, write_failures
from videokd.jobs.unfinished import Lines, unfinished_table
from videokd.jobs.workers import Workers, with_bar


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
    with unfinished_table(out, verb="describe") as lines:
        known = {row.description.path: row for row in read_table(out)} if out.exists() else {}
        known |= {row.description.path: row for row in read_lines(lines)}
        rows, reasons, reused = _describe_missing(files, known, lines, workers)
        failed = [(escaped(file.name), reasons[file.name]) for file in files if file.name in reasons]
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


def describe_file(file: ArchiveFile) -> TableRow:
    """Describes one file.

    Raises:
        DecodeError: it cannot be described.
    """
    modified = status_of(file).st_mtime_ns
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
        if escaped(file.name) != file.name:
            reasons[file.name] = NOT_UTF8.format(file.name)
        elif row is not None and is_unchanged(file, row.description.bytes, row.modified_ns):
            rows[file.name] = row
        else:
            todo.append(file)
    reused = len(rows)
    with Lines(lines) as kept:
        for file, outcome in with_bar(describe_file, todo, workers, what="describe", done=reused):
            if isinstance(outcome, DecodeError):
                reasons[file.name] = reason_with_name(file, outcome)
                continue
            rows[file.name] = outcome
            kept.append(outcome.to_json())
    return [rows[file.name] for file in files if file.name in rows], reasons, reused


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
