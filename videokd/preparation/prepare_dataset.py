"""A dataset into the training form, with its manifest: in parallel, in shares, and resumable at any point."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from tqdm import tqdm

from videokd.codec.mp4_writer import Encoding
from videokd.datasets.manifest import Clip, Manifest, listed_ids
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.files import held
from videokd.preparation.checks import (
    FAILURES_NAME,
    FINDINGS_NAME,
    check_clips,
    read_failures,
    write_failures,
    write_findings,
)
from videokd.preparation.listing import ListedClip, Listing, unreadable_folders
from videokd.preparation.prepare_clip import (
    ClipTask,
    RowValues,
    describe_task,
    finished_clip,
    frame_rates_of,
    prepare_clip,
)
from videokd.preparation.shards import SHARDS_FOLDER, Shard, finished_shards
from videokd.preparation.workers import Workers

OnError = Literal["fail", "skip"]
Task = TypeVar("Task")
Result = TypeVar("Result")

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
    shard: Shard | None = None,
    progress: bool | None = None,
) -> Manifest:
    """Transcode every video of a dataset and write its manifest.

    Clips go to `out/videos/<video id>.mp4`, the table to `out/manifest.parquet`. A run that was stopped, however abruptly,
    goes on where it stood; what is finished is made again only if its source or the encoding changed. Files that
    cannot be decoded are listed in `out/failures.csv`, after all others are done. What `check_clips` finds is listed in
    `out/findings.csv`; its figures are in the manifest's settings.

    Args:
        listing: the dataset as it lies on disk.
        out: the folder to write; outside the dataset's own.
        encoding: how; None: the defaults.
        keep: leave files where they lie if their codec exports motion vectors, and transcode the others alone.
        on_error: "fail" raises if there are failures; "skip" leaves those clips out and counts them in the
            manifest's settings.
        workers: who does it; None: one process for each CPU.
        shard: make this share alone, and a table for `merge` in place of the manifest.
        progress: whether to show a bar on stderr; None: if that is a terminal.

    Returns:
        The manifest, or the share's table, as written.

    Raises:
        DataError: nothing to do; failures with on_error="fail", or nothing but failures; `out` cannot be written or
            lies in the dataset's folder; another process writes there; it holds another dataset; a
            worker died.
        ConfigError: a setting is out of its range, or there is no Ray cluster.
    """
    out, encoding = Path(out), encoding or Encoding()
    _check_arguments(listing, out, on_error)
    with _kept_from_others(out, shared=shard is not None):
        _check_same_dataset(listing, out)
        _clear(out, shard)
        entries = [entry for entry in listing.entries if shard is None or shard.holds(entry.video_id)]
        plan = _Plan(
            listing.root.absolute(), out.absolute(), encoding, keep
        )  # workers of a cluster stand in other folders
        made, reasons = _make_all(entries, plan, workers or Workers(), progress)
        failed = [(_shown(entry.path), reasons[entry.video_id]) for entry in entries if entry.video_id in reasons]
        if shard is None or shard.number == 1:
            failed += [(_shown(path), why) for path, why in _unreadable(listing.root)]
        failures = shard.failures(out) if shard else out / FAILURES_NAME
        write_failures(failures, failed)
        if failed and (on_error == "fail" or (shard is None and not made)):
            raise _too_many(failed, len(entries), failures)
        clips = tuple(made[entry.video_id] for entry in entries if entry.video_id in made)
        settings: dict[str, object] = {"encoding": describe_task(encoding), "keep": keep, "skipped": len(failed)}
        manifest = Manifest(out, clips, listing.class_names, listing.flip, settings)
        if shard is None:
            return _finish(manifest, listing)
        manifest.write(shard.table(out))
        return manifest


def merge(listing: Listing, out: Path | str) -> Manifest:
    """Put the shares of a dataset together that `prepare` made with `shard`, check it, write its manifest.

    Args:
        listing: the dataset as it lies on disk.
        out: the folder that the shares were written to.

    Returns:
        The manifest, as written.

    Raises:
        DataError: shares are missing or were made in different ways; clips are in none; there is nothing but failures.
    """
    out = Path(out)
    shards = finished_shards(out)
    parts = [Manifest.read(shard.table(out)) for shard in shards]
    ways = {name: parts[0].settings[name] for name in ("encoding", "keep")}
    for shard, part in zip(shards, parts, strict=True):
        if any(part.settings[name] != way for name, way in ways.items()) or part.class_names != listing.class_names:
            raise DataError(
                f"{shard.table(out)} was made with other settings or classes than the first share or the dataset. "
                f"Run shard {shard} again with the settings of the others."
            )
    clips = {clip.video_id: clip for part in parts for clip in part.clips}
    failed = sorted(row for shard in shards for row in read_failures(shard.failures(out)))
    paths = {path for path, _ in failed}
    lost = [e for e in listing.entries if e.video_id not in clips and _shown(e.path) not in paths]
    if lost:
        raise DataError(
            f"{out}: {len(lost)} of {len(listing.entries)} clips are in no share (first: {lost[0].path}). "
            "The dataset has grown: run all shards again; each makes what is missing."
        )
    with _kept_from_others(out):
        write_failures(out / FAILURES_NAME, failed)
        if not clips:
            raise _too_many(failed, len(listing.entries), out / FAILURES_NAME)
        ordered = tuple(clips[entry.video_id] for entry in listing.entries if entry.video_id in clips)
        settings = {**ways, "skipped": len(failed)}
        return _finish(Manifest(out, ordered, listing.class_names, listing.flip, settings), listing)


def _check_arguments(listing: Listing, out: Path, on_error: OnError) -> None:
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error {on_error!r} (accepted: {', '.join(get_args(OnError))}). Choose one of these.")
    if not listing.entries:
        raise DataError(f"{listing.root}: no videos to prepare. Check the folder and the layout.")
    if out.resolve().is_relative_to(listing.root.resolve()):
        raise DataError(f"{out} lies in the dataset's own folder {listing.root}. Choose a folder outside it.")


def _check_same_dataset(listing: Listing, out: Path) -> None:
    known = listed_ids(out)
    if known and known.isdisjoint(entry.video_id for entry in listing.entries):
        raise DataError(
            f"{out} holds another dataset: {len(known)} clips, none of {listing.root} (first: {min(known)}). "
            "Choose another --out, or delete that folder."
        )


@contextlib.contextmanager
def _kept_from_others(out: Path, *, shared: bool = False) -> Iterator[None]:
    """The folder, made where it is missing, for this run alone, or for shares of one dataset."""
    try:
        for name in (_VIDEOS, _ROWS):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    with writing_alone(out, lock_of(out), shared=shared):
        yield


def lock_of(out: Path) -> Path:
    """The file that a run holds while it writes a dataset."""
    return out / _ROWS / "lock"


def _clear(out: Path, shard: Shard | None) -> None:
    """Take away what killed workers left half done; of a share, its earlier table."""
    try:
        if shard is None:
            _remove_temporary(out)
        else:
            shard.table(out).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> DataError:
    return DataError(f"{out} cannot be written ({error.strerror or error}). Choose another folder.")


def _remove_temporary(out: Path) -> None:
    """Take away what killed workers left half done; never while other shares are made in the same folder."""
    for folder in (out / _VIDEOS, out / _ROWS, out / SHARDS_FOLDER):
        for stray in folder.rglob(_TEMPORARY):
            stray.unlink(missing_ok=True)


def row_of(out: Path, video_id: str) -> Path:
    """The note of a finished clip."""
    # Hashed, because an id may hold "/" and be as long as a file name can be; in 256 folders, because one of millions is slow.
    name = hashlib.sha256(os.fsencode(video_id)).hexdigest()[:24]
    return out / _ROWS / name[:2] / f"{name[2:]}.json"


def _file_name(video_id: str) -> str:
    """Where a clip goes, below the folder of videos: under its own name, or a number where that could not be written.

    The number is for names that are too long, and for folders that are named as another clip's file would be.
    """
    *folders, _ = video_id.split("/")
    name = f"{video_id}.mp4"
    if len(os.fsencode(name.rpartition("/")[2])) <= _LONGEST_NAME and not any(
        folder.lower().endswith(".mp4") for folder in folders
    ):
        return name
    return f"{hashlib.sha256(os.fsencode(video_id)).hexdigest()[:24]}.mp4"


@dataclass(frozen=True)
class _Plan:
    """What all of a dataset's clips have in common."""

    source_root: Path
    out: Path
    encoding: Encoding
    keep: bool

    def task(self, entry: ListedClip) -> ClipTask:
        return ClipTask(
            video_id=entry.video_id,
            root=self.out,
            source=self.source_root / entry.path,
            target=self.out / _VIDEOS / _file_name(entry.video_id),
            row=row_of(self.out, entry.video_id),
            encoding=self.encoding,
            keep=self.keep,
        )


@dataclass(frozen=True)
class _Tasks(Sequence[Any]):
    """Tasks that are made when they are handed out: those of a million clips would fill the memory."""

    make: Callable[[Any], Any]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: Any) -> Any:
        items = self.items[number]
        return _Tasks(self.make, items) if isinstance(number, slice) else self.make(items)


def _make_all(
    entries: Sequence[ListedClip], plan: _Plan, workers: Workers, progress: bool | None
) -> tuple[dict[str, Clip], dict[str, str]]:
    """Each finished clip, and why each other failed, by video id."""
    made: dict[str, Clip] = {}
    todo: dict[str, ListedClip] = {}
    reasons: dict[str, str] = {}
    for entry in entries:
        if not _is_utf8(entry.path):
            reasons[entry.video_id] = f"{entry.path}: its name is no UTF-8, which a manifest cannot hold. Rename it."
            continue
        facts = finished_clip(plan.task(entry))
        if facts is None:
            todo[entry.video_id] = entry
        else:
            made[entry.video_id] = _clip(entry, facts)
    tasks: Sequence[ClipTask] = _Tasks(plan.task, list(todo.values()))
    for task, outcome in with_bar(prepare_clip, tasks, workers, what="prepare", done=len(made), shown=progress):
        if isinstance(outcome, DecodeError):
            named = str(task.source) in str(outcome)
            reasons[task.video_id] = str(outcome) if named else f"{task.source}: {outcome}"
        else:
            made[task.video_id] = _clip(todo[task.video_id], outcome)
    return made, reasons


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def with_bar(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: Workers,
    *,
    what: str,
    done: int,
    shown: bool | None,
) -> Iterator[tuple[Task, Result | DecodeError]]:
    """The outcomes, with a bar on stderr."""
    visible = sys.stderr.isatty() if shown is None else shown
    with tqdm(total=done + len(tasks), initial=done, desc=what, unit="clip", disable=not visible) as bar:
        for outcome in workers.outcomes(function, tasks):
            yield outcome
            bar.update()


def _shown(path: Path) -> str:
    """A path as failures.csv holds it: bytes that are no UTF-8 are escaped."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _unreadable(root: Path) -> list[tuple[Path, str]]:
    """(path from the root, reason) of the folders whose clips are lost because nobody may list them."""
    return [
        (folder.relative_to(root), f"{folder}: its files cannot be listed ({why}). Correct its permissions.")
        for folder, why in unreadable_folders(root)
    ]


def _too_many(failed: Sequence[tuple[str, str]], total: int, path: Path) -> DataError:
    advice = "Fix or remove them" if len(failed) >= total else 'Fix or remove them, or use on_error "skip"'
    return DataError(
        f"{len(failed)} of {total} videos could not be prepared, all listed in {path}. {advice}. "
        f"The first: {failed[0][1]}"
    )


def _clip(entry: ListedClip, facts: RowValues) -> Clip:
    split1, split2, split3 = entry.splits
    return Clip(
        video_id=entry.video_id,
        label=entry.label,
        class_name=entry.class_name,
        group=entry.group,
        split1=split1,
        split2=split2,
        split3=split3,
        source_path=entry.path.as_posix(),
        **facts | {name: sys.intern(facts[name]) for name in ("codec", "source_codec")},  # the same for most clips
    )


def _finish(manifest: Manifest, listing: Listing) -> Manifest:
    """The manifest with the figures of its checks, written."""
    _remove_temporary(manifest.root)
    figures, findings = check_clips(manifest.clips, manifest.class_names, official=listing.official_clips)
    write_findings(manifest.root / FINDINGS_NAME, findings)
    rates = frame_rates_of(manifest.clips, manifest.settings["encoding"])  # type: ignore[arg-type]
    manifest = replace(manifest, settings={**manifest.settings, "frame_rates": rates, "checks": figures})
    manifest.write()
    return manifest


def writing_alone(out: Path, file: Path, *, shared: bool = False) -> AbstractContextManager[None]:
    """Keeps a dataset's folder to this process, as `videokd.files.held` does.

    Args:
        out: the dataset's folder, for the message.
        file: to lock; its folder is there.
        shared: with others who share too.

    Raises:
        DataError: another process has it.
    """
    refusal = (
        f"{out} is being written by another `videokd prepare` (accepted: one at a time, or shares with "
        "--shard i/n). Wait until it is done, or choose another --out."
    )
    return held(file, refusal=refusal, shared=shared)
