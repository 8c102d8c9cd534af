"""Files that fail in a job over many files: why, and the CSV file that lists them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videokd.errors import DecodeError, VideoKDError
from videokd.files import csv_text, from_cell, write_whole

FAILURES_NAME = "failures.csv"


@contextmanager
def any_error_named(file: Path | str, *, done: str) -> Iterator[None]:
    """Whatever error an odd file causes, it is named and the job goes on with the others: none ends the job.

    Args:
        file: as messages name it.
        done: what is done to files: prepared, described.

    Raises:
        DecodeError: in the place of any error that is not a VideoKDError.
    """
    try:
        yield
    except VideoKDError:
        raise
    except Exception as error:
        raise DecodeError(
            f"{file} cannot be {done} ({type(error).__name__}: {error}). Remove the file, and report this."
        ) from error


def write_failures(path: Path, failed: Sequence[tuple[str, str]]) -> None:
    """Writes the path and reason of each file that failed; if none failed, the CSV file is removed.

    Args:
        path: the CSV file.
        failed: (path, reason) of each.

    Raises:
        DataError: the file cannot be written.
    """
    path.unlink(missing_ok=True)
    if failed:
        write_csv(path, ("path", "reason"), failed)


def read_failures(path: Path) -> list[tuple[str, str]]:
    """The rows that `write_failures` wrote: (path, reason) of each; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(from_cell(row["path"]), from_cell(row["reason"])) for row in csv.DictReader(file)]


def write_csv(path: Path | str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Writes a CSV file; bytes of names that are not UTF-8 are escaped.

    Args:
        path: the file.
        names: of the columns.
        rows: the values of each row.

    Returns:
        The file.

    Raises:
        DataError: the file cannot be written.
    """
    return write_whole(path, csv_text([names, *rows]).encode("utf-8", "backslashreplace"))
