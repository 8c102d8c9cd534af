"""Checks that a prepared dataset still agrees with its manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import DataError, DecodeError
from videokd.files import sha256_of
from videokd.jobs.failures import FAILURES_NAME, write_failures
from videokd.jobs.workers import Workers, with_bar
from videokd.preparation.prepare_dataset import row_of, writing_alone


def verify(out: Path | str, source_root: Path | str, *, workers: Workers | None = None) -> int:
    """Reads every clip of a prepared dataset again, and compares it and its source with the manifest.

    Clips that differ are listed in `out/failures.csv`, and the next `prepare` prepares them again.

    Args:
        out: the folder of the prepared dataset.
        source_root: the folder of the dataset it was prepared from; sources that no longer exist are not compared.
        workers: where the work is done; None: one process per CPU.

    Returns:
        Number of sources that were compared.

    Raises:
        DataError: there is no manifest, clips differ, or the dataset is being written.
    """
    manifest = Manifest.read(out)
    root = manifest.root.absolute()
    with writing_alone(root, shared=True):
        return _compare_all(manifest, root, Path(source_root).absolute(), workers or Workers())


def _compare_all(manifest: Manifest, root: Path, source_root: Path, workers: Workers) -> int:
    tasks = [_Comparison(clip, root / clip.path, source_root / clip.source_path) for clip in manifest.clips]
    reasons: dict[str, str] = {}
    compared = 0
    for task, outcome in with_bar(_compare, tasks, workers, what="verify", done=0):
        if isinstance(outcome, DecodeError):
            reasons[task.clip.video_id] = str(outcome)
            row_of(root, task.clip.video_id).unlink(missing_ok=True)
        else:
            compared += outcome
    failed = [
        (clip.source_path or clip.path, reasons[clip.video_id]) for clip in manifest.clips if clip.video_id in reasons
    ]
    write_failures(root / FAILURES_NAME, failed)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(manifest.clips)} clips or their sources have changed, all listed in {root / FAILURES_NAME}. "
            f"Run the same command without --verify to prepare them again. The first: {failed[0][1]}"
        )
    return compared


@dataclass(frozen=True)
class _Comparison:
    clip: Clip
    file: Path
    source: Path


def _compare(task: _Comparison) -> bool:
    """Compares a clip and its source with the manifest; returns whether the source exists.

    Raises:
        DecodeError: the clip or its source differs from the manifest.
    """
    clip = task.clip
    if not task.file.is_file():
        raise DecodeError(f"{task.file} is missing.")
    if task.file.stat().st_size != clip.bytes or sha256_of(task.file) != clip.sha256:
        raise DecodeError(f"{task.file} has changed since it was prepared.")
    known, found = VideoIndex.from_json(clip.index), index_video(task.file)
    if (found if known.places else replace(found, places=None)) != known:
        raise DecodeError(f"{task.file} is read differently than when it was prepared: FFmpeg has changed.")
    present = bool(clip.source_path) and task.source.is_file()
    if present and sha256_of(task.source) != clip.source_sha256:
        raise DecodeError(f"{task.source} has changed since it was prepared.")
    return present
