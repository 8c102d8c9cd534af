"""Tables for people, as CSV: what would be made of a dataset, what failed, what the checks found."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from videokd.datasets.checks import Finding
from videokd.datasets.layouts import Listing
from videokd.files import csv_text, from_cell, write_whole

FAILURES_NAME = "failures.csv"
FINDINGS_NAME = "findings.csv"
_PLAN = ("path", "label", "class_name", "group", "split1", "split2", "split3")


def write_plan(listing: Listing, path: Path | str) -> Path:
    """Write what `prepare` would make of a dataset, from names alone.

    Args:
        listing: the dataset as it lies on disk.
        path: the file, with the columns path, label, class_name, group, split1, split2, split3.

    Raises:
        DataError: the file cannot be written.
    """
    rows = ((e.path.as_posix(), e.label, e.class_name, e.group, *e.splits) for e in listing.entries)
    return _write(path, _PLAN, rows)


def write_failures(path: Path, failed: Sequence[tuple[str, str]]) -> None:
    """Write (path, reason) of each file that failed; without any, there is no such file.

    Raises:
        DataError: the file cannot be written.
    """
    path.unlink(missing_ok=True)
    if failed:
        _write(path, ("path", "reason"), failed)


def read_failures(path: Path) -> list[tuple[str, str]]:
    """What `write_failures` wrote."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(from_cell(row["path"]), from_cell(row["reason"])) for row in csv.DictReader(file)]


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write what the checks found, one line each; without any, there is no such file.

    Raises:
        DataError: the file cannot be written.
    """
    path.unlink(missing_ok=True)
    if findings:
        _write(path, ("check", "what", "detail"), ((f.check, f.what, f.detail) for f in findings))


def _write(path: Path | str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    return write_whole(path, csv_text([names, *rows]).encode("utf-8", "backslashreplace"))
