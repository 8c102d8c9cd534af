"""One video of a dataset: into the training form, or kept as it is; and a note that it is done."""

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
from videokd.codec.mp4_writer import Encoding
from videokd.codec.opening import check_path
from videokd.codec.reader import open_video
from videokd.codec.training_form import FileForm, form_of
from videokd.codec.transcode import SourceForm, transcode
from videokd.datasets.manifest import Clip
from videokd.errors import DataError, DecodeError, NeedsTranscoding, VideoKDError
from videokd.files import sha256_of, write_whole

_SAME_RATE = 0.001
RowValues = dict[str, Any]
"""Columns of the manifest that are known once a clip is made."""


@dataclass(frozen=True)
class ClipTask:
    """What a worker needs to make one clip.

    Args:
        video_id: names the clip within its dataset.
        root: the folder of the manifest, from which the clip's path starts.
        source: the video as it came.
        target: where the prepared one goes.
        row: the note of what is known of the finished clip; written last, so its presence means that the clip is whole.
        encoding: how it is encoded.
        keep: take the source as it is, where its codec exports motion vectors; transcode it otherwise.
    """

    video_id: str
    root: Path
    source: Path
    target: Path
    row: Path
    encoding: Encoding
    keep: bool


def prepare_clip(task: ClipTask) -> RowValues:
    """Makes one clip, indexes it, notes that it is done.

    Raises:
        DecodeError: the source is no video, damaged, or has one picture alone.
        DataError: the clip cannot be written, or not read again.
    """
    if not os.path.exists(task.source):
        raise DecodeError(
            f"{task.source}: no such file. It went away after the folder was listed, or is a broken link."
        )
    check_path(task.source)
    try:
        made_from = _made_from(task)
        facts = (_kept(task) if task.keep else None) or _transcoded(task)
    except VideoKDError:
        raise
    except Exception as error:  # whatever a file of a strange kind brings about: the others are prepared
        raise DecodeError(
            f"{task.source} cannot be prepared ({type(error).__name__}: {error}). Leave it out, and report this."
        ) from error
    content = json.dumps({"made_from": made_from, "facts": facts}).encode()
    write_whole(task.row, content)
    return facts


def finished_clip(task: ClipTask) -> RowValues | None:
    """What is known of a clip that an earlier run made, if it still is what this run would make."""
    try:
        row = json.loads(task.row.read_text(encoding="utf-8"))
        path = task.root / row["facts"]["path"]
        if row["made_from"] == _made_from(task) and path.stat().st_size == row["facts"]["bytes"]:
            facts: RowValues = row["facts"]
            return facts
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or written by something else: made again
    return None


@lru_cache
def describe_task(encoding: Encoding) -> Mapping[str, object]:
    """An encoding as the manifest notes it."""
    values = {**asdict(encoding), "quality": encoding.resolved_quality}
    if encoding.resample is None:
        del values["resample"]  # as before there was such a setting: finished clips stay finished
    return values


def frame_rates_of(clips: Sequence[Clip], encoding: Mapping[str, object]) -> list[float]:
    """The lowest and the highest number of pictures a second of the middle 90 % of clips; empty where no file states one.

    Where a nominal rate was stamped on the files, it is their sources' that counts: how fast things move in them.
    """
    if "resample" in encoding:
        return [float(str(encoding["resample"]))] * 2
    rates = sorted(clip.source_frame_rate for clip in clips if clip.source_frame_rate > 0)
    outliers = len(rates) // 20
    return [round(rates[place], 4) for place in (outliers, -1 - outliers)] if rates else []


def _made_from(task: ClipTask) -> dict[str, object]:
    """What a finished clip depends on."""
    status = task.source.stat()
    return {
        "video_id": task.video_id,
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "encoding": describe_task(task.encoding),
        **({"keep": True} if task.keep else {}),
    }


def _transcoded(task: ClipTask) -> RowValues:
    form = transcode(task.source, task.target, task.encoding)
    if form.num_written < 2:
        task.target.unlink()
        raise DecodeError(f"{task.source} has one picture alone (accepted: two or more, to see motion). Leave it out.")
    index = index_video(task.target)
    if index.num_frames != form.num_written or not index.exact:
        raise DataError(
            f"{task.target}: {form.num_written} pictures were written, {index.num_frames} found. Check the disk."
        )
    return _row_values(task, task.target, index, form)


def _kept(task: ClipTask) -> RowValues | None:
    """The facts of a source that stays as it is; None where it must be transcoded to have motion, or to look like the others.

    That is a file which gives no motion vectors or cannot be read at random, one that is to be turned, mirrored or widened, and
    one of another rate where all shall have one.
    """
    try:
        form = form_of(task.source)
        if not form.orientation.is_upright or form.pixel_aspect != 1 or _has_another_rate(form, task.encoding):
            return None
        index = index_video(task.source)
        if index.codec not in MOTION_CODECS or not any(gop.num_positions > 1 for gop in index.gops):
            return None
        with open_video(task.source, index=index) as video:
            for _ in video.iterate(streams=("motion",)):  # read it through once, so that damage shows now
                pass
    except NeedsTranscoding:
        return None
    order = sorted(zip(index.display or range(index.num_frames), index.types.replace("-", ""), strict=True))
    types = "".join(kind.upper() for _, kind in order)
    task.target.unlink(missing_ok=True)  # of an earlier run that transcoded it
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
