"""Prepares one clip: transcodes it or keeps it as it is, indexes it, and records that it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from videokd.codec.container import MOTION_CODECS
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.codec.opening import check_source
from videokd.codec.reader import open_video
from videokd.datasets.manifest import Clip
from videokd.errors import DataError, DecodeError, NeedsTranscoding
from videokd.files import sha256_of, write_whole
from videokd.jobs.failures import any_error_named
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.training_form import FileForm, form_of
from videokd.transcoding.transcode import SourceForm, transcode

_SAME_RATE = 0.001  # relative difference of two frame rates that count as equal
RowValues = dict[str, Any]
"""{column: value} of the manifest's columns that are known once a clip is prepared."""


@dataclass(frozen=True)
class ClipTask:
    """What a worker needs to prepare one clip.

    Args:
        video_id: the clip's id in its dataset.
        root: the manifest's folder; the clip's path is relative to it.
        source: the video to prepare.
        target: the prepared video.
        row: the JSON file of the clip's row values; written last, so if it exists, the prepared video is complete.
        encoding: how to encode.
        keep: keep the source as it is where its codec exports motion vectors; transcode it otherwise.
    """

    video_id: str
    root: Path
    source: Path
    target: Path
    row: Path
    encoding: Encoding
    keep: bool


def prepare_clip(task: ClipTask) -> RowValues:
    """Prepares one clip, indexes it, and writes its row values.

    Args:
        task: the clip.

    Returns:
        The row values.

    Raises:
        DecodeError: the source is missing, not a video, damaged, or has only one picture.
        DataError: the clip cannot be written, or is not complete when it is read again.
    """
    if not os.path.exists(task.source):
        raise DecodeError(
            f"{task.source}: no such file. It was removed after the folder was listed, or is a broken link."
        )
    check_source(task.source)
    with any_error_named(task.source, done="prepared"):
        inputs = _inputs_of(task)
        values = (_kept(task) if task.keep else None) or _transcoded(task)
    # The keys of the first version, so that clips that it prepared are not prepared again
    write_whole(task.row, json.dumps({"made_from": inputs, "facts": values}).encode())
    return values


def reusable_values(task: ClipTask) -> RowValues | None:
    """The row values of a clip that an earlier run prepared; None if it must be prepared, or prepared again."""
    try:
        row = json.loads(task.row.read_text(encoding="utf-8"))
        values: RowValues = row["facts"]
        path = task.root / values["path"]
        if row["made_from"] == _inputs_of(task) and path.stat().st_size == values["bytes"]:
            return values
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or written by another program
    return None


def encoding_of_row(row: Path) -> dict[str, object]:
    """How a clip was encoded, as `encoding_settings` has it, by the file of its row values; empty if that cannot be read."""
    try:
        found = json.loads(row.read_text(encoding="utf-8"))["made_from"]["encoding"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # written by another program
    return found if isinstance(found, dict) else {}


@lru_cache
def encoding_settings(encoding: Encoding) -> Mapping[str, object]:
    """An encoding as the manifest's settings have it."""
    values = {**asdict(encoding), "quality": encoding.resolved_quality}
    for name in ("resample", "tune"):
        if getattr(encoding, name) == Encoding.__dataclass_fields__[name].default:
            del values[name]  # as before this setting existed, so that older clips are not prepared again
    return values


def frame_rates_of(clips: Sequence[Clip], encoding: Mapping[str, object]) -> list[float]:
    """The lowest and highest frame rate of the middle 90 % of clips, in pictures per second; empty where none is known.

    If only the nominal rate was changed, the sources' rates count, because they say how fast things move.

    Args:
        clips: the dataset's clips.
        encoding: from `encoding_settings`.
    """
    if "resample" in encoding:
        return [float(str(encoding["resample"]))] * 2
    rates = sorted(clip.source_frame_rate for clip in clips if clip.source_frame_rate > 0)
    outliers = len(rates) // 20
    return [round(rates[place], 4) for place in (outliers, -1 - outliers)] if rates else []


def _inputs_of(task: ClipTask) -> dict[str, object]:
    """What a prepared clip depends on: if any of it changes, the clip is prepared again."""
    status = task.source.stat()
    return {
        "video_id": task.video_id,
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "encoding": encoding_settings(task.encoding),
        **({"keep": True} if task.keep else {}),
    }


def _transcoded(task: ClipTask) -> RowValues:
    form = transcode(task.source, task.target, task.encoding)
    if form.num_written < 2:
        task.target.unlink()
        raise DecodeError(
            f"{task.source} has only one picture (accepted: two or more, to see motion). Remove the file."
        )
    index = index_video(task.target)
    if index.num_frames != form.num_written or not index.exact:
        raise DataError(
            f"{task.target}: {form.num_written} pictures were written, but {index.num_frames} were found. Check the disk."
        )
    return _row_values(task, task.target, index, form)


def _kept(task: ClipTask) -> RowValues | None:
    """The row values of a source that is kept as it is; None where it must be transcoded.

    That is a source without motion vectors or random access, one that must be rotated, mirrored or widened to be shown, and
    one with another frame rate than `encoding.resample`.
    """
    try:
        form = form_of(task.source)
        if not form.orientation.is_upright or form.pixel_aspect != 1 or _has_another_rate(form, task.encoding):
            return None
        index = index_video(task.source)
        if index.codec not in MOTION_CODECS or not any(gop.num_positions > 1 for gop in index.gops):
            return None
        with open_video(task.source, index=index) as video:
            for _ in video.iterate(streams=("motion",)):  # decode all of it once, to find damage now
                pass
    except NeedsTranscoding:
        return None
    order = sorted(zip(index.display or range(index.num_frames), index.types.replace("-", ""), strict=True))
    types = "".join(kind.upper() for _, kind in order)
    task.target.unlink(missing_ok=True)  # from an earlier run that transcoded it
    return _row_values(task, task.source, index, SourceForm(index.codec, form.frame_rate, types, index.num_frames))


def _has_another_rate(form: FileForm, encoding: Encoding) -> bool:
    return encoding.resample is not None and abs(form.frame_rate - encoding.resample) > _SAME_RATE * encoding.resample


def _row_values(task: ClipTask, path: Path, index: VideoIndex, form: SourceForm) -> RowValues:
    return {
        "path": _relative(path, task.root),
        "codec": index.codec,
        "width": index.width,
        "height": index.height,
        "num_frames": index.num_frames,
        "seconds": index.duration_seconds,
        "index": index.to_json(),
        "source_sha256": sha256_of(task.source),
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "source_codec": form.codec,
        "source_frame_rate": form.frame_rate,
        "source_gop": round(form.num_frames / max(form.types.count("I"), 1), 3),
        "source_b_frames": round(form.types.count("B") / form.num_frames, 4),
        "source_bytes": task.source.stat().st_size,
    }


def _relative(path: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive, on Windows
        return path.resolve().as_posix()
