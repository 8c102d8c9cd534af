"""A dataset into the training form, with its manifest: in parallel, and resumable at any point."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from videokd.codec.container import index_video
from videokd.codec.transcode import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, Encoding, transcode
from videokd.datasets.layouts import Entry
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError, DecodeError

OnError = Literal["fail", "skip"]
FAILURES_NAME = "failures.csv"
_ROWS = ".rows"
_VIDEOS = "videos"


@dataclass(frozen=True)
class _Task:
    """What a worker needs to make one clip."""

    video_id: str
    source: Path
    target: Path
    row: Path  # what is known of the finished clip; written last, so its presence means that the clip is whole
    encoding: Encoding


_Facts = Mapping[str, Any]


def prepare(
    entries: Sequence[Entry],
    source_root: Path | str,
    out: Path | str,
    *,
    encoding: Encoding | None = None,
    jobs: int | None = None,
    on_error: OnError = "fail",
    flip: bool = True,
    progress: bool | None = None,
) -> Manifest:
    """Transcode every video of a dataset and write its manifest.

    Clips go to `out/videos/<video id>.mp4`, the table to `out/manifest.parquet`. A run that was stopped, however abruptly,
    goes on where it stood; what is finished is made again only if its source or the encoding changed. Files that
    cannot be decoded are listed in `out/failures.csv`, after all others are done.

    Args:
        entries: from one of the layouts.
        source_root: the folder that the entries' paths start from.
        out: the folder to write; outside the source folder.
        encoding: how; None: the defaults.
        jobs: clips made at the same time; None: one for each CPU this process may use.
        on_error: "fail" raises if there are failures; "skip" leaves those clips out and counts them in the
            manifest's settings.
        flip: whether a clip mirrored left to right still shows its class; goes into the manifest.
        progress: whether to show a bar on stderr; None: if that is a terminal.

    Returns:
        The manifest, as written.

    Raises:
        DataError: nothing to do; failures with on_error="fail", or nothing but failures; `out` cannot be written or
            lies in the source folder; a worker died.
        ConfigError: a setting is out of its range.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs {jobs} (accepted: 1 or more, or none for one per CPU).")
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error {on_error!r} (accepted: {', '.join(get_args(OnError))}). Choose one of these.")
    if not entries:
        raise DataError(f"{source_root}: no videos to prepare. Check the folder and the layout.")
    source_root, out, encoding = Path(source_root), Path(out), encoding or Encoding()
    if out.resolve().is_relative_to(source_root.resolve()):
        raise DataError(f"{out} lies in the dataset's own folder {source_root}. Choose a folder outside it.")
    _make_folders(out)
    tasks = [_task(entry, source_root, out, encoding) for entry in entries]
    facts, failures = _make_all(tasks, jobs or _num_cpus(), progress)
    _report_failures(out, entries, failures, on_error)
    clips = tuple(_clip(entry, facts[entry.video_id]) for entry in entries if entry.video_id in facts)
    names = {entry.label: entry.class_name for entry in entries}
    settings = {"encoding": _described(encoding), "skipped": len(failures)}
    manifest = Manifest(out, clips, tuple(names[label] for label in sorted(names)), flip, settings)
    manifest.write()
    return manifest


def _make_all(tasks: Sequence[_Task], jobs: int, progress: bool | None) -> tuple[dict[str, _Facts], dict[str, str]]:
    """What is known of each finished clip, and why each other failed, by video id."""
    facts = {task.video_id: found for task in tasks if (found := _finished(task)) is not None}
    failures: dict[str, str] = {}
    todo = [task for task in tasks if task.video_id not in facts]
    shown = sys.stderr.isatty() if progress is None else progress
    with tqdm(total=len(tasks), initial=len(facts), desc="prepare", unit="clip", disable=not shown) as bar:
        for task, outcome in _outcomes(todo, min(jobs, len(todo))):
            if isinstance(outcome, DecodeError):
                failures[task.video_id] = str(outcome)
            else:
                facts[task.video_id] = outcome
            bar.update()
    return facts, failures


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_folders(out: Path) -> None:
    """The folders to write into, without what killed runs left half done."""
    try:
        for folder in (out / _VIDEOS, out / _ROWS):
            folder.mkdir(parents=True, exist_ok=True)
            for stray in folder.rglob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
                stray.unlink()
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror or error}). Choose another folder.") from error


def _task(entry: Entry, source_root: Path, out: Path, encoding: Encoding) -> _Task:
    # Hashed, because an id may hold "/" and be as long as a file name can be.
    row = hashlib.sha256(entry.video_id.encode()).hexdigest()[:24] + ".json"
    target = out / _VIDEOS / f"{entry.video_id}.mp4"
    return _Task(entry.video_id, source_root / entry.path, target, out / _ROWS / row, encoding)


def _described(encoding: Encoding) -> dict[str, object]:
    return {**asdict(encoding), "quality": encoding.resolved_quality}


def _made_from(task: _Task) -> dict[str, object]:
    """What a finished clip depends on."""
    status = task.source.stat()
    return {
        "video_id": task.video_id,
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "encoding": _described(task.encoding),
    }


def _finished(task: _Task) -> _Facts | None:
    """The facts of a clip that an earlier run made, if it still is what this run would make."""
    try:
        row = json.loads(task.row.read_text(encoding="utf-8"))
        if row["made_from"] == _made_from(task) and task.target.stat().st_size == row["facts"]["bytes"]:
            facts: _Facts = row["facts"]
            return facts
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or written by something else: made again
    return None


def _make(task: _Task) -> _Facts:
    """Transcode one clip, index it, note that it is done."""
    if not task.source.exists():
        raise DecodeError(f"{task.source}: no such file. It went away after the folder was listed.")
    made_from = _made_from(task)
    count = transcode(task.source, task.target, task.encoding)
    if count < 2:
        task.target.unlink()
        raise DecodeError(f"{task.source} has one picture alone (accepted: two or more, to see motion). Leave it out.")
    index = index_video(task.target)
    if index.num_frames != count or not index.exact:
        raise DataError(f"{task.target}: {count} pictures were written, {index.num_frames} found. Check the disk.")
    facts: _Facts = {
        "codec": index.codec,
        "width": index.width,
        "height": index.height,
        "num_frames": index.num_frames,
        "seconds": index.num_frames / index.frame_rate,
        "index": index.to_json(),
        "source_sha256": _sha256(task.source),
        "sha256": _sha256(task.target),
        "bytes": task.target.stat().st_size,
    }
    temporary = task.row.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        temporary.write_text(json.dumps({"made_from": made_from, "facts": facts}), encoding="utf-8")
        os.replace(temporary, task.row)
    except OSError as error:
        raise DataError(f"{task.row} could not be written ({error.strerror or error}). Check free space.") from error
    return facts


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _attempt(task: _Task) -> _Facts | DecodeError:
    """Bad sources are results, to be reported together; a full disk is an exception, and ends the run."""
    try:
        return _make(task)
    except DecodeError as error:
        return error


def _outcomes(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[_Task, _Facts | DecodeError]]:
    """Each task with what became of it, in the order of completion."""
    if jobs <= 1:
        for task in tasks:
            yield task, _attempt(task)
        return
    # Spawned, because a forked copy of a process with threads (torch, FFmpeg) can deadlock.
    executor = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker)
    try:
        with _interrupts_held_back():
            futures = {executor.submit(_attempt, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process died: killed for want of memory, or FFmpeg crashed on a file. "
            "Run the same command again; with `jobs` 1 the last file that is begun is the culprit."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits meanwhile, and processes started meanwhile do not see it before they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _report_failures(out: Path, entries: Sequence[Entry], failures: Mapping[str, str], on_error: OnError) -> None:
    path = out / FAILURES_NAME
    path.unlink(missing_ok=True)
    if not failures:
        return
    failed = [entry for entry in entries if entry.video_id in failures]  # in the dataset's order, whatever came first
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerows([entry.path.as_posix(), failures[entry.video_id]] for entry in failed)
    if on_error == "fail" or len(failed) == len(entries):
        advice = "Mend or remove them" if len(failed) == len(entries) else 'Mend or remove them, or use on_error "skip"'
        raise DataError(
            f"{len(failed)} of {len(entries)} videos could not be prepared, all listed in {path}. {advice}. "
            f"The first: {failures[failed[0].video_id]}"
        )


def _clip(entry: Entry, facts: _Facts) -> Clip:
    split1, split2, split3 = entry.splits
    return Clip(
        video_id=entry.video_id,
        path=f"{_VIDEOS}/{entry.video_id}.mp4",
        label=entry.label,
        class_name=entry.class_name,
        group=entry.group,
        split1=split1,
        split2=split2,
        split3=split3,
        codec=facts["codec"],
        width=facts["width"],
        height=facts["height"],
        num_frames=facts["num_frames"],
        seconds=facts["seconds"],
        index=facts["index"],
        source_sha256=facts["source_sha256"],
        sha256=facts["sha256"],
        bytes=facts["bytes"],
    )
