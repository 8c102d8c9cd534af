"""Whether a prepared dataset is still what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from videokd.codec.indexing import index_video
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import DataError, DecodeError
from videokd.files import sha256_of
from videokd.preparation.checks import FAILURES_NAME, write_failures
from videokd.preparation.prepare_dataset import lock_of, row_of, with_bar, writing_alone
from videokd.preparation.workers import Workers


def verify(
    out: Path | str, source_root: Path | str, *, workers: Workers | None = None, progress: bool | None = None
) -> int:
    """Read every clip of a prepared dataset again, and compare it and its source with what the manifest knows.

    Clips that differ are listed in `out/failures.csv`, and the next `prepare` makes them again.

    Args:
        out: the prepared dataset.
        source_root: the dataset it was made from; sources that are no longer there are not compared.
        workers: who does it; None: one process for each CPU.
        progress: whether to show a bar on stderr; None: if that is a terminal.

    Returns:
        How many sources were compared.

    Raises:
        DataError: there is no manifest, clips differ, or the dataset is being written.
    """
    manifest = Manifest.read(out)
    root = manifest.root.absolute()
    with writing_alone(root, lock_of(root), shared=True):
        return _verify(manifest, root, Path(source_root).absolute(), workers or Workers(), progress)


def _verify(manifest: Manifest, root: Path, source_root: Path, workers: Workers, progress: bool | None) -> int:
    tasks = [_Comparison(clip, root / clip.path, source_root / clip.source_path) for clip in manifest.clips]
    reasons: dict[str, str] = {}
    compared = 0
    for task, outcome in with_bar(_compare, tasks, workers, what="verify", done=0, shown=progress):
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
            f"{len(failed)} of {len(manifest.clips)} clips are not as they were, all listed in {root / FAILURES_NAME}. "
            f"Run the same command without --verify to make them again. The first: {failed[0][1]}"
        )
    return compared


@dataclass(frozen=True)
class _Comparison:
    clip: Clip
    file: Path
    source: Path


def _compare(task: _Comparison) -> bool:
    """Whether the source was there to be compared.

    Raises:
        DecodeError: the clip or its source is not what the manifest says.
    """
    clip = task.clip
    if not task.file.is_file():
        raise DecodeError(f"{task.file} is missing.")
    if task.file.stat().st_size != clip.bytes or sha256_of(task.file) != clip.sha256:
        raise DecodeError(f"{task.file} has changed since it was prepared.")
    if index_video(task.file).to_json() != clip.index:
        raise DecodeError(f"{task.file} is read in another way than when it was prepared: FFmpeg has changed.")
    present = bool(clip.source_path) and task.source.is_file()
    if present and sha256_of(task.source) != clip.source_sha256:
        raise DecodeError(f"{task.source} has changed since it was prepared.")
    return present
