"""Copies of a clip are found whatever was done to the file; other clips of the same room are not taken for copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MakeClip
from tests.small_datasets import prepared_clips
from videokd.codec.reader import open_video
from videokd.datasets.manifest import Clip, Manifest
from videokd.datasets.near_duplicates import near_duplicates
from videokd.errors import DataError
from videokd.jobs.workers import Workers
from videokd.preparation.folders import unlabelled_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import prepare
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode, transcode


def prepared(folder: Path, files: dict[str, Path]) -> Manifest:
    for name, path in files.items():
        target = folder / "in" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    encoding = Encoding(short_side=96)
    listed = Listing(folder / "in", unlabelled_layout(folder / "in"), flip=True)
    return prepare(listed, folder / "out", encoding=encoding, workers=Workers(jobs=1))


def pairs(manifest: Manifest, others: Manifest, folder: Path | None = None) -> set[tuple[str, str]]:
    found = near_duplicates([(manifest, c) for c in manifest.clips], [(others, c) for c in others.clips], folder=folder)
    return {(one.video_id, other.video_id) for one, other in found}


def copies(path: Path, folder: Path) -> dict[str, Path]:
    """Coarser, smaller, with other GOPs, and without its first and last fifth."""
    made = {name: folder / f"{name}.mp4" for name in ("coarse", "small", "trimmed")}
    transcode(path, made["coarse"], Encoding(codec="h264", quality=33, gop=40, short_side=240))
    transcode(path, made["small"], Encoding(codec="mpeg4", quality=6, gop=9, short_side=120))
    with open_video(path) as video:
        frames = [frame for each in video.iterate(streams=("frame",)) if (frame := each.frame) is not None]
    cut = len(frames) // 5
    encode(frames[cut:-cut], made["trimmed"], frame_rate=25, encoding=Encoding(codec="h264", quality=26, gop=17))
    return made


def test_copies_of_real_clips_are_found_and_other_groups_are_not(shared: Path, tmp_path: Path) -> None:
    names = [
        ("Archery", "v_Archery_g02_c01"),
        ("PlayingViolin", "v_PlayingViolin_g04_c01"),
        ("Surfing", "v_Surfing_g03_c02"),
    ]
    originals = {f"{kind}/{name}.mp4": shared / "ucf101-6" / kind / f"{name}.mp4" for kind, name in names}
    elsewhere = {
        f"{kind}/{name.replace(group, other)}.mp4": shared / "ucf101-6" / kind / f"{name.replace(group, other)}.mp4"
        for (kind, name), group in zip(names, ("g02", "g04", "g03"), strict=True)
        for other in ("g07", "g12")
    }
    made = {}
    for kind, name in names:
        folder = tmp_path / name
        folder.mkdir()
        made |= {
            f"{kind}/{name}_{what}.mp4": path for what, path in copies(originals[f"{kind}/{name}.mp4"], folder).items()
        }
    tested, unlabelled = prepared(tmp_path / "a", originals), prepared(tmp_path / "b", made | elsewhere)
    expected = {(name.removesuffix(".mp4"), name.rpartition("_")[0]) for name in made}
    assert pairs(unlabelled, tested) == expected


def test_one_room_with_other_people_and_actions_is_no_copy(shared: Path, tmp_path: Path) -> None:
    folder = shared / "utd-mhad-5"
    ours = {f"{p.parent.name}/{p.name}": p for p in folder.glob("*/*_s[12]_t1.mp4")}
    theirs = {f"{p.parent.name}/{p.name}": p for p in folder.glob("*/*_s[34]_t1.mp4")}
    other_actions = {f"{p.parent.name}/{p.name}": p for p in folder.glob("wave/*_s[12]_t2.mp4")}
    mine = prepared(tmp_path / "a", {name: path for name, path in ours.items() if not name.startswith("wave")})
    assert len(mine.clips) == 8
    assert pairs(mine, prepared(tmp_path / "b", theirs | other_actions)) == set()


def test_small_pictures_are_kept_by_content(
    tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = prepared_clips(tmp_path, make_clip, 4)
    kept = tmp_path / "kept"
    found = pairs(manifest, manifest, kept)
    assert found == {(clip.video_id, clip.video_id) for clip in manifest.clips}  # other textures are no copies
    monkeypatch.setattr("videokd.datasets.near_duplicates.open_video", None)
    assert pairs(manifest, manifest, kept) == found
    content = manifest.clips[0].sha256
    file = next(kept.rglob(f"{content}.npy"))
    assert np.load(file).shape[1:] == (32, 32, 3)
    of_another_shape = (np.zeros(shape, np.uint8) for shape in [(0, 32, 32, 3), (5, 16, 16, 3), ()])
    for wrong in (b"torn", b"", *of_another_shape):
        if isinstance(wrong, bytes):
            file.write_bytes(wrong)
        else:
            np.save(file, wrong)
        with pytest.raises(DataError, match=rf"{content}\.npy is damaged .* Delete it"):
            pairs(manifest, manifest, kept)


def test_nothing_is_read_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    clips: list[tuple[Manifest, Clip]] = []
    assert near_duplicates(clips, clips, folder=tmp_path / "none") == []
