"""A dataset of both forms: every training clip as it was prepared, and as it was shipped with its GOPs cut.

    .venv/bin/python measurements/both_forms.py CLIPS PREPARED OUT

CLIPS is the dataset that was prepared, PREPARED its training form. OUT/manifest.parquet has all clips of PREPARED, and those of split 1's
training part once more: the files of CLIPS, whose index is cut to PREPARED's GOPs (`VideoIndex.cut`). Students that are trained on it and
exported are tested by `measurements/predict_forms.py CLIPS PREPARED STUDENTS --kind both_forms --title …`. Files are linked, not copied: OUT must be on
the same disk. Do not share a `--data.cache` with runs that read CLIPS' files with other cuts: it knows a clip by its file alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from videokd.codec.indexing import index_video
from videokd.datasets.manifest import Clip, Manifest
from videokd.files import sha256_of
from videokd.transcoding.training_form import TrainingForm


def as_shipped(clip: Clip, source: Path, path: str, gop: int) -> Clip:
    """A clip's row, for its source with cut GOPs."""
    index = index_video(source).cut(gop)
    return replace(
        clip,
        video_id=f"{clip.video_id}~shipped",
        path=path,
        codec=index.codec,
        width=index.width,
        height=index.height,
        num_frames=index.num_frames,
        seconds=index.duration_seconds,
        index=index.to_json(),
        sha256=sha256_of(source),
        bytes=source.stat().st_size,
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("clips", "prepared", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    manifest = Manifest.read(given.prepared)
    gop = TrainingForm.from_settings(manifest.settings).encoding.gop
    rows = list(manifest.clips)
    for clip in manifest.clips:
        linked = given.out / clip.path
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.unlink(missing_ok=True)
        os.link(manifest.file(clip), linked)
    for clip in tqdm([clip for clip in manifest.clips if clip.split1 == "train"], unit="clip", disable=None):
        source = given.clips / clip.source_path
        path = f"shipped/{clip.source_path}"
        (given.out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, given.out / path)
        rows.append(as_shipped(clip, source, path, gop))
    print(replace(manifest, root=given.out, clips=tuple(rows)).write())


if __name__ == "__main__":
    main()
