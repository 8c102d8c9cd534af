"""Labels the files of an archive in parallel, one by one or into one table. A stopped run resumes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from videokd.archives.central import label_in_batches
from videokd.archives.labelling import LabelledFile, Labelling, label_file
from videokd.archives.labels_table import check_labels_name, read_labels, write_labels
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.files import parsed_json, remove_temporary
from videokd.jobs.archive_files import NOT_UTF8, ArchiveFile, escaped, failures_of, is_unchanged, reason_with_name
from videokd.jobs.failures import write_failures
from videokd.jobs.unfinished import Lines, unfinished_table
from videokd.jobs.workers import Workers, with_bar
from videokd.prediction.loading import computes_on_gpu

_FILES_WORTH_A_PROCESS = 8  # a process that loads students takes seconds to start


@dataclass(frozen=True)
class Labelled:
    """What `label_into_table` did.

    Args:
        rows: how many rows the table has.
        failed: (path, reason) of each file that could not be labelled.
        reused: how many of the given files an earlier run had labelled.
    """

    rows: int
    failed: tuple[tuple[str, str], ...]
    reused: int


def label_files(
    files: Sequence[ArchiveFile], labelling: Labelling, *, workers: Workers, made_with: str, done: int = 0
) -> Generator[tuple[ArchiveFile, LabelledFile | DecodeError], None, None]:
    """Labels files in processes that each read videos and compute networks with one thread; on a GPU, this process computes.

    Args:
        files: of an archive.
        labelling: what to do.
        workers: where the work is done. Without a number of jobs, few files are labelled in this process.
        made_with: of the labelling.
        done: how many files were labelled before; the progress bar begins there.

    Yields:
        (file, its row, or why there is none), as soon as it is known.

    Raises:
        DataError: there are no students.
        ConfigError: a setting cannot be had, the memory is too small, or there is no Ray cluster.
    """
    on_ray = workers.engine == "ray"
    if labelling.batch_size is not None and on_ray:
        raise ConfigError("batch_size needs the engine local (given: ray). Omit it.")
    if workers.jobs is None and not on_ray:
        workers = workers.at_most(max(len(files) // _FILES_WORTH_A_PROCESS, 1))
    in_batches = not on_ray and (
        labelling.batch_size is not None or computes_on_gpu(labelling.students, labelling.device)
    )
    alone = workers.jobs == 1 and len(files) < 2 * _FILES_WORTH_A_PROCESS
    labelling = replace(labelling, threads=None if alone or in_batches else 1, scratch=f"{uuid.uuid4().hex[:12]}-")
    try:
        if in_batches:
            outcomes = label_in_batches(files, labelling, workers=workers, made_with=made_with, done=done)
        else:
            work = partial(label_file, labelling, made_with)
            outcomes = with_bar(work, files, workers, what="predict", done=done)
        with closing(outcomes):
            yield from outcomes
    finally:
        remove_temporary(labelling.scratch)  # what workers that were killed left


def label_into_table(files: Sequence[ArchiveFile], labelling: Labelling, out: Path, *, workers: Workers) -> Labelled:
    """Labels files, and writes their table; beside it, failures.csv lists those that failed.

    If a run is stopped in any way, the same call resumes it: each row is kept at once in a file beside the table. A file of the table is
    labelled again only if its size or time of change differs. Rows of files that are not given stay in the table.

    Args:
        files: of an archive; of those of equal name, the first counts.
        labelling: what to do.
        out: the table, .parquet, .csv, .jsonl or .json.
        workers: as for `label_files`.

    Raises:
        ConfigError: the table's name has another ending, or as for `label_files`.
        DataError: nothing could be labelled; the table is of other students or settings, or not one, or cannot be written; another
            process writes it.
    """
    check_labels_name(out)
    files = list({file.name: file for file in reversed(files)}.values())[::-1]
    with unfinished_table(out, verb="predict") as place, Lines(place) as lines:
        kept = _Kept(out, lines, labelling.made_with())
        todo, reasons = kept.missing(files)
        reused = len(files) - len(todo) - len(reasons)
        work = label_files(todo, labelling, workers=workers, made_with=kept.made_with, done=reused)
        with closing(work) as outcomes:
            for file, outcome in outcomes:
                if isinstance(outcome, DecodeError):
                    reasons[file.name] = reason_with_name(file, outcome)
                else:
                    kept.add(outcome)
        for name in reasons:
            kept.remove(name)
        failed = [(escaped(file.name), reasons[file.name]) for file in files if file.name in reasons]
        write_failures(failures_of(out), failed)
        if not kept.count:
            place.unlink(missing_ok=True)
            raise DataError(
                f"none of {len(files)} files could be labelled; {failures_of(out)} lists them. The first: {failed[0][1]}"
            )
        write_labels(out, kept.rows([file.name for file in files]))
        place.unlink(missing_ok=True)
    return Labelled(kept.count, tuple(failed), reused)


class _Kept:
    """The rows that are known, as lines on the disk; in memory only where each begins.

    Args:
        out: the table of an earlier run, if there is one.
        lines: of a run that was stopped, if there was one.
        made_with: of rows that may be together in one table.

    Raises:
        DataError: other rows are there, or the table is not one.
    """

    def __init__(self, out: Path, lines: Lines, made_with: str) -> None:
        self.made_with = made_with
        self._lines = lines
        self._known: dict[str, tuple[int, int, int]] = {}  # path: (start of its line, bytes, modified_ns)
        for start, line in lines:
            try:
                row = LabelledFile.of(parsed_json(line))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                continue  # half a line
            self._note(row, start, out)
        if out.exists():
            for row in read_labels(out):
                self._check(row, out)
                if row.prediction.path not in self._known:
                    self.add(row)

    @property
    def count(self) -> int:
        return len(self._known)

    def add(self, row: LabelledFile) -> None:
        self._note(row, self._lines.append(row.to_json()), None)

    def remove(self, name: str) -> None:
        self._known.pop(name, None)

    def _note(self, row: LabelledFile, start: int, out: Path | None) -> None:
        if out is not None:
            self._check(row, out)
        self._known[row.prediction.path] = (start, row.bytes, row.modified_ns)

    def _check(self, row: LabelledFile, out: Path) -> None:
        if row.made_with != self.made_with:
            raise DataError(
                f"{out} was begun with other students or other settings (top, num_segments, transcode, exit_threshold, precision; "
                "accepted: the same for all rows). Choose another name, or remove it and what is beside it."
            )

    def missing(self, files: Sequence[ArchiveFile]) -> tuple[list[ArchiveFile], dict[str, str]]:
        """The files without a row, and {name: reason} of those that can have none."""
        todo, reasons = [], {}
        for file in files:
            known = self._known.get(file.name)
            if escaped(file.name) != file.name:
                reasons[file.name] = NOT_UTF8.format(file.name)
            elif known is None or not is_unchanged(file, *known[1:]):
                todo.append(file)
        return todo, reasons

    def rows(self, names: Sequence[str]) -> Iterator[LabelledFile]:
        """All rows: first of these files, in their order, then the others."""
        for name in dict.fromkeys([name for name in names if name in self._known] + list(self._known)):
            yield LabelledFile.of(json.loads(self._lines.at(self._known[name][0])))
