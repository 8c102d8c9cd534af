"""Prepares a dataset: transcodes its clips in parallel, in shards if wanted, and writes the manifest. A stopped run resumes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from videokd.datasets.manifest import Clip, Manifest, listed_ids
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.files import held
from videokd.jobs.failures import FAILURES_NAME, read_failures, write_failures
from videokd.jobs.video_files import unreadable_folders
from videokd.jobs.workers import Workers, with_bar
from videokd.preparation.checks import FINDINGS_NAME, Finding, check_clips, write_findings
from videokd.preparation.listing import ListedClip, Listing
from videokd.preparation.prepare_clip import (
    ClipTask,
    RowValues,
    encoding_of_row,
    encoding_settings,
    frame_rates_of,
    prepare_clip,
    reusable_values,
)
from videokd.preparation.shards import SHARDS_FOLDER, complete_shards
from videokd.transcoding.mp4_writer import Encoding

OnError = Literal["fail", "skip"]

_ROWS = ".rows"
_VIDEOS = "videos"
_TEMPORARY = ".*.part"
_LONGEST_NAME = 255  # bytes, on most file systems


def prepare(
    listing: Listing,
    out: Path | str,
    *,
    encoding: Encoding | None = None,
    keep: bool = False,
    on_error: OnError = "fail",
    workers: Workers | None = None,
) -> Manifest:
    """Transcodes every video of a dataset, or of one shard of it, and writes the manifest.

    Clips are written to `out/videos/<video id>.mp4`, the table to `out/manifest.parquet`. If a run is stopped in any way, the
    same call resumes it; a prepared clip is only prepared again if its source or the encoding changed. Files that cannot
    be decoded are listed in `out/failures.csv`, after all others are done. The findings of `check_clips` are listed in
    `out/findings.csv`; its figures are in the manifest's settings.

    At a terminal, stderr shows a progress bar.

    Args:
        listing: the dataset on disk. If it has a shard, only that is prepared, and a table for `merge` is written instead of
            the manifest.
        out: the folder to write to; outside the dataset's own.
        encoding: how to encode; None: the defaults.
        keep: keep files as they are where their codec exports motion vectors, and transcode only the others.
        on_error: "fail" raises if there are failures; "skip" omits those clips, and counts them in the manifest's settings.
        workers: where the work is done; None: one process per CPU.

    Returns:
        The manifest, or the shard's table, as written.

    Raises:
        DataError: there is nothing to prepare; there are failures and on_error="fail", or only failures; `out` cannot be
            written, lies in the dataset's folder, holds another dataset, or is being written by another process; several
            workers in a row died.
        ConfigError: a setting is out of its range, or there is no Ray cluster.
    """
    out, encoding, shard = Path(out), encoding or Encoding(), listing.shard
    check_arguments(listing, out, on_error)
    with _folder_for_writing(out, shared=shard is not None):
        _check_same_dataset(listing, out)
        _remove_leftovers(listing, out)
        to_prepare = listing.clips_of_shard
        # Absolute, because workers of a cluster have other working directories
        tasks = _ClipTasks(listing.root.absolute(), out.absolute(), encoding, keep)
        prepared, reasons = _prepare_clips(to_prepare, tasks, workers or Workers())
        failed = [(_utf8_path(clip.path), reasons[clip.video_id]) for clip in to_prepare if clip.video_id in reasons]
        if shard is None or shard.number == 1:
            failed += _failures_of_folders(listing.root)
        failures = out / FAILURES_NAME if shard is None else shard.failures(out)
        write_failures(failures, failed)
        if failed and (on_error == "fail" or (shard is None and not prepared)):
            raise _failures_error(failed, len(to_prepare), failures)
        clips = tuple(prepared[clip.video_id] for clip in to_prepare if clip.video_id in prepared)
        settings: dict[str, object] = {"encoding": encoding_settings(encoding), "keep": keep, "skipped": len(failed)}
        manifest = Manifest(out, clips, listing.class_names, listing.flip, settings)
        if shard is None:
            return _write_with_checks(manifest, listing)
        manifest.write(shard.table(out))
        return manifest


def merge(listing: Listing, out: Path | str) -> Manifest:
    """Merges the shards that `prepare` wrote, checks the dataset, and writes its manifest.

    Args:
        listing: the dataset on disk; its shard is ignored.
        out: the folder that the shards were written to.

    Returns:
        The manifest, as written.

    Raises:
        DataError: shards are missing, or were prepared with different settings; clips are in no shard; there are only
            failures.
    """
    out = Path(out)
    shards = complete_shards(out)
    tables = [Manifest.read(shard.table(out)) for shard in shards]
    common = {name: tables[0].settings[name] for name in ("encoding", "keep")}
    for shard, table in zip(shards, tables, strict=True):
        same_settings = all(table.settings[name] == value for name, value in common.items())
        if not same_settings or table.class_names != listing.class_names:
            raise DataError(
                f"{shard.table(out)} was prepared with other settings or classes than the first shard or the dataset. "
                f"Run shard {shard} again with the settings of the others."
            )
    clips = {clip.video_id: clip for table in tables for clip in table.clips}
    failed = sorted(row for shard in shards for row in read_failures(shard.failures(out)))
    failed_paths = {path for path, _ in failed}
    missing = [c for c in listing.clips if c.video_id not in clips and _utf8_path(c.path) not in failed_paths]
    if missing:
        raise DataError(
            f"{out}: {len(missing)} of {len(listing.clips)} clips are in no shard (first: {missing[0].path}). "
            "The dataset has grown: run all shards again; each prepares what is missing."
        )
    with _folder_for_writing(out):
        write_failures(out / FAILURES_NAME, failed)
        if not clips:
            raise _failures_error(failed, len(listing.clips), out / FAILURES_NAME)
        ordered = tuple(clips[clip.video_id] for clip in listing.clips if clip.video_id in clips)
        settings = {**common, "skipped": len(failed)}
        return _write_with_checks(Manifest(out, ordered, listing.class_names, listing.flip, settings), listing)


def row_of(out: Path, video_id: str) -> Path:
    """The JSON file of a prepared clip's row values; without it, the clip is prepared again.

    Args:
        out: the folder of the prepared dataset.
        video_id: the clip's id.
    """
    # Hashed, because an id can contain "/" and be as long as a file name; in 256 folders, because one folder of millions is slow
    name = hashlib.sha256(os.fsencode(video_id)).hexdigest()[:24]
    return out / _ROWS / name[:2] / f"{name[2:]}.json"


def encoding_of_folder(out: Path | str) -> dict[str, object]:
    """How the clips of a folder are encoded.

    Args:
        out: the folder of a prepared dataset, also of one that is not finished.

    Returns:
        {setting: value}, as `encoding_settings` has it; empty where no clip has been prepared.
    """
    for row in (Path(out) / _ROWS).glob("*/*.json"):
        found = encoding_of_row(row)
        if found:
            return found
    return {}


def writing_alone(out: Path, *, shared: bool = False) -> AbstractContextManager[None]:
    """Locks the folder of a prepared dataset for this process, as `videokd.files.held` does.

    Args:
        out: the folder; its rows' folder exists.
        shared: allow other processes that share too.

    Raises:
        DataError: another process has locked it.
    """
    refusal = (
        f"{out} is being written by another `videokd prepare` (accepted: one at a time, or several with "
        "--shard i/n). Wait until it is done, or choose another --out."
    )
    return held(out / _ROWS / "lock", refusal=refusal, shared=shared)


def check_arguments(listing: Listing, out: Path, on_error: OnError) -> None:
    """Checks what `prepare` is given, before anything is written.

    Args:
        listing: as for `prepare`.
        out: as for `prepare`.
        on_error: as for `prepare`.

    Raises:
        ConfigError: on_error is neither of its values.
        DataError: there is nothing to prepare, or `out` lies in the dataset's folder.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error {on_error!r} (accepted: {', '.join(get_args(OnError))}). Choose one of these.")
    if not listing.clips:
        raise DataError(f"{listing.root}: no videos to prepare. Check the folder and the layout.")
    if out.resolve().is_relative_to(listing.root.resolve()):
        raise DataError(f"{out} lies in the dataset's own folder {listing.root}. Choose a folder outside it.")


def _check_same_dataset(listing: Listing, out: Path) -> None:
    known = listed_ids(out)
    if known and known.isdisjoint(clip.video_id for clip in listing.clips):
        raise DataError(
            f"{out} holds another dataset: {len(known)} clips, none of {listing.root} (first: {min(known)}). "
            "Choose another --out, or delete that folder."
        )


@contextlib.contextmanager
def _folder_for_writing(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Makes the folder where it is missing, and locks it for this run, or for runs of shards."""
    try:
        for name in (_VIDEOS, _ROWS):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from error
    with writing_alone(out, shared=shared):
        yield


def _remove_leftovers(listing: Listing, out: Path) -> None:
    """Removes temporary files of killed workers; for a shard, its earlier table."""
    try:
        if listing.shard is None:
            _remove_temporary_files(out)
        else:
            listing.shard.table(out).unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from error


def _not_writable(out: Path, error: OSError) -> DataError:
    return DataError(f"{out} cannot be written ({error.strerror or error}). Choose another folder.")


def _remove_temporary_files(out: Path) -> None:
    """Removes temporary files of killed workers. Never called while other shards are being written to the same folder."""
    for folder in (out / _VIDEOS, out / _ROWS, out / SHARDS_FOLDER):
        for leftover in folder.rglob(_TEMPORARY):
            leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class _ClipTasks(Sequence[ClipTask]):
    """The tasks of clips, each created when it is asked for: those of a million clips would fill the memory."""

    source_root: Path
    out: Path
    encoding: Encoding
    keep: bool
    clips: Sequence[ListedClip] = ()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: Any) -> Any:
        clips = self.clips[number]
        return self.of(clips) if isinstance(clips, ListedClip) else replace(self, clips=clips)

    def of(self, clip: ListedClip) -> ClipTask:
        return ClipTask(
            video_id=clip.video_id,
            root=self.out,
            source=self.source_root / clip.path,
            target=self.out / _VIDEOS / _file_name(clip.video_id),
            row=row_of(self.out, clip.video_id),
            encoding=self.encoding,
            keep=self.keep,
        )


def _file_name(video_id: str) -> str:
    """The file of a clip in the folder of videos: named by its id, or by a hash where that name cannot be used.

    It cannot be used if it is too long, or if one of its folders could be the file of another clip.
    """
    *folders, _ = video_id.split("/")
    name = f"{video_id}.mp4"
    if len(os.fsencode(name.rpartition("/")[2])) <= _LONGEST_NAME and not any(
        folder.lower().endswith(".mp4") for folder in folders
    ):
        return name
    return f"{hashlib.sha256(os.fsencode(video_id)).hexdigest()[:24]}.mp4"


def _prepare_clips(
    clips: Sequence[ListedClip], tasks: _ClipTasks, workers: Workers
) -> tuple[dict[str, Clip], dict[str, str]]:
    """{video id: row of the manifest} of the prepared clips, and {video id: reason} of those that failed."""
    prepared: dict[str, Clip] = {}
    todo: dict[str, ListedClip] = {}
    reasons: dict[str, str] = {}
    for clip in clips:
        if not _is_utf8(clip.path):
            reasons[clip.video_id] = f"{clip.path}: its name is not UTF-8, so a manifest cannot hold it. Rename it."
            continue
        values = reusable_values(tasks.of(clip))
        if values is None:
            todo[clip.video_id] = clip
        else:
            prepared[clip.video_id] = _manifest_row(clip, values)
    tasks = replace(tasks, clips=list(todo.values()))
    for task, outcome in with_bar(prepare_clip, tasks, workers, what="prepare", done=len(prepared)):
        if isinstance(outcome, DecodeError):
            is_named = str(task.source) in str(outcome)
            reasons[task.video_id] = str(outcome) if is_named else f"{task.source}: {outcome}"
        else:
            prepared[task.video_id] = _manifest_row(todo[task.video_id], outcome)
    return prepared, reasons


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _manifest_row(clip: ListedClip, values: RowValues) -> Clip:
    split1, split2, split3 = clip.splits
    return Clip(
        video_id=clip.video_id,
        label=clip.label,
        class_name=clip.class_name,
        group=clip.group,
        split1=split1,
        split2=split2,
        split3=split3,
        source_path=clip.path.as_posix(),
        **values | {name: sys.intern(values[name]) for name in ("codec", "source_codec")},  # the same for most clips
    )


def _utf8_path(path: Path) -> str:
    """A path as failures.csv has it: bytes that are not UTF-8 are escaped."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _failures_of_folders(root: Path) -> list[tuple[str, str]]:
    """(path from the root, reason) of the folders whose clips are lost because their files cannot be listed."""
    return [
        (
            _utf8_path(folder.relative_to(root)),
            f"{folder}: its files cannot be listed ({reason}). Correct its permissions.",
        )
        for folder, reason in unreadable_folders(root)
    ]


def _failures_error(failed: Sequence[tuple[str, str]], total: int, path: Path) -> DataError:
    advice = "Fix or remove them" if len(failed) >= total else "Fix or remove them, or pass `--on-error skip`"
    return DataError(
        f"{len(failed)} of {total} videos could not be prepared, all listed in {path}. {advice}. "
        f"The first: {failed[0][1]}"
    )


def _write_with_checks(manifest: Manifest, listing: Listing) -> Manifest:
    """Checks a manifest, adds the figures of the checks to its settings, and writes it."""
    _remove_temporary_files(manifest.root)
    figures, findings = check_clips(manifest.clips, manifest.class_names, official=listing.official_clips)
    if listing.left_out:
        figures = {**figures, "left_out": len(listing.left_out)}
        findings = [*findings, *(Finding("where", path, reason) for path, reason in listing.left_out)]
    write_findings(manifest.root / FINDINGS_NAME, findings)
    rates = frame_rates_of(manifest.clips, manifest.settings["encoding"])  # type: ignore[arg-type]
    manifest = replace(manifest, settings={**manifest.settings, "frame_rates": rates, "checks": figures})
    manifest.write()
    return manifest
