"""Leaves out clips of a dataset by a condition on their descriptions: `videokd prepare --where`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videokd.description.archive import describe_archive
from videokd.description.clip import ClipDescription
from videokd.description.condition import Condition
from videokd.description.table import read_table
from videokd.errors import DataError
from videokd.jobs.archive_files import ArchiveFile, failures_of
from videokd.jobs.failures import read_failures
from videokd.jobs.workers import Workers
from videokd.preparation.listing import ListedClip, Listing

DESCRIBED_NAME = "described.parquet"


def describe_listing(listing: Listing, out: Path, *, where: Condition, workers: Workers) -> Path:
    """Describes the clips of a dataset, as far as an earlier run has not.

    Args:
        listing: the dataset on disk.
        out: the folder of the prepared dataset; the table is written there.
        where: the condition; near-duplicates are looked for if it names them.
        workers: where the work is done.

    Returns:
        The table.

    Raises:
        DataError: no clip can be described, or the table cannot be written.
    """
    table = out / DESCRIBED_NAME
    files = [ArchiveFile(clip.path.as_posix(), (listing.root / clip.path).absolute()) for clip in listing.clips]
    describe_archive(files, table, workers=workers, near_duplicates="near_duplicate_of" in where.text)
    return table


def selected(listing: Listing, table: Path, where: Condition) -> Listing:
    """The dataset without the clips that do not fulfil a condition; these are in its `left_out`.

    Clips that could not be described stay: `prepare` reports them.

    Args:
        listing: the dataset on disk.
        table: descriptions of its clips, from `videokd describe` of the same folder.
        where: the condition.

    Raises:
        DataError: the table cannot be read, or lacks clips; no clip of a class fulfils the condition.
    """
    described = {row.description.path: row.description for row in read_table(table)}
    failed = {path for path, _ in read_failures(failures_of(table))}
    kept, left_out = [], []
    for clip in listing.clips:
        names = _names_of(clip, listing.root)
        description = next((described[name] for name in names if name in described), None)
        if description is None and failed.isdisjoint(names):
            raise DataError(
                f"{table} lacks {clip.path} (accepted: descriptions of all clips of {listing.root}). Run `videokd describe {listing.root} "
                f"--save {table}` again, or omit --described."
            )
        reason = None if description is None else where.why_not(_values(description))
        if reason is None:
            kept.append(clip)
        else:
            left_out.append((clip.path.as_posix(), f"not {where.text}: {reason}"))
    _check_classes(listing, kept, where)
    return replace(listing, clips=tuple(kept), left_out=tuple(left_out))


def _names_of(clip: ListedClip, root: Path) -> list[str]:
    """As which a table may have a clip: from the dataset's folder, as given, or from the root."""
    return [clip.path.as_posix(), (root / clip.path).as_posix(), (root / clip.path).absolute().as_posix()]


def _values(description: ClipDescription) -> dict[str, object]:
    return {name: getattr(description, name) for name in description.__dataclass_fields__}


def _check_classes(listing: Listing, kept: Sequence[ListedClip], where: Condition) -> None:
    if not kept:
        raise DataError(f"no clip of {listing.root} fulfils {where.text} (accepted: some do). Change the condition.")
    lost = set(listing.class_names) - {clip.class_name for clip in kept}
    if lost - {""}:
        raise DataError(
            f"no clip of {len(lost)} of {len(listing.class_names)} classes (first: {min(lost)}) fulfils {where.text} (accepted: some of each "
            "class do). Change the condition, or remove the class."
        )
