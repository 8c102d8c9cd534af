from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.preparation.test_prepare_dataset import ONE, SMALL, times
from tests.small_datasets import digests, listing, write_clip
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError, DataError
from videokd.preparation.prepare_dataset import merge, prepare
from videokd.preparation.shards import Shard
from videokd.transcoding.mp4_writer import Encoding


def test_shards_together_are_the_whole(dataset: Path, tmp_path: Path) -> None:
    listed, whole, out = listing(dataset), tmp_path / "whole", tmp_path / "out"
    prepare(listed, whole, encoding=SMALL, workers=ONE)
    held = [prepare(replace(listed, shard=Shard(n, 3)), out, encoding=SMALL, workers=ONE).clips for n in (3, 1, 2)]
    assert sorted(clip.video_id for clips in held for clip in clips) == sorted(clip.video_id for clip in listed.clips)
    assert not (out / "manifest.parquet").exists()
    assert merge(listed, out).clips == Manifest.read(whole).clips
    assert digests(out) == digests(whole)
    before = times(out)
    prepare(listed, out, encoding=SMALL, workers=ONE)
    assert times(out) == before


def test_a_shard_leaves_the_others_temporary_files_alone(dataset: Path, tmp_path: Path) -> None:
    stray = tmp_path / "out" / "videos" / ".videokd-0123456789ab.part"
    stray.parent.mkdir(parents=True)
    stray.touch()
    for number in (1, 2):
        prepare(replace(listing(dataset), shard=Shard(number, 2)), tmp_path / "out", encoding=SMALL, workers=ONE)
    assert stray.exists()
    merge(listing(dataset), tmp_path / "out")
    assert not stray.exists()


def test_merging_refuses(dataset: Path, tmp_path: Path) -> None:
    listed, out = listing(dataset), tmp_path / "out"

    def run_shard(number: int, count: int = 2, encoding: Encoding = SMALL) -> None:
        prepare(replace(listed, shard=Shard(number, count)), out, encoding=encoding, workers=ONE)

    with pytest.raises(DataError, match=r"has no shards to merge .* Run these first"):
        merge(listed, out)
    run_shard(1)
    with pytest.raises(DataError, match=r"1 of 2 shards are not complete \(first: 2/2\)\. .* --shard 2/2"):
        merge(listed, out)
    run_shard(2, encoding=Encoding(short_side=48))
    with pytest.raises(DataError, match=r"prepared with other settings or classes .* Run shard 2/2 again"):
        merge(listed, out)
    run_shard(2)
    write_clip(dataset / "hop/new_g3_c1.mp4")
    with pytest.raises(DataError, match=r"1 of 5 clips are in no shard \(first: hop/new_g3_c1.mp4\)"):
        merge(listing(dataset), out)
    run_shard(1, count=1)
    with pytest.raises(DataError, match=r"has shards of n=1 and n=2 .* Remove the older ones"):
        merge(listed, out)


def test_shards_with_failures(damaged: Path, tmp_path: Path) -> None:
    listed, out = listing(damaged), tmp_path / "out"
    with pytest.raises(DataError, match=r"2 of 6 videos could not be prepared, all listed in .*1-of-1.csv"):
        prepare(replace(listed, shard=Shard(1, 1)), out, encoding=SMALL, workers=ONE)
    with pytest.raises(DataError, match=r"has no shards to merge"):
        merge(listed, out)
    for number in range(1, 7):  # one of them may hold nothing but a failure
        prepare(replace(listed, shard=Shard(number, 6)), out, encoding=SMALL, workers=ONE, on_error="skip")
    manifest = merge(listed, out)
    assert (len(manifest.clips), manifest.settings["skipped"]) == (4, 2)
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["hop/bad_g3_c1.mp4", "run/short_g3_c1.mp4"]


def test_shards_of_nothing_but_failures(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("text")
    listed = listing(tmp_path / "in")
    prepare(replace(listed, shard=Shard(1, 1)), tmp_path / "out", workers=ONE, on_error="skip")
    with pytest.raises(DataError, match=r"4 of 4 videos could not be prepared"):
        merge(listed, tmp_path / "out")


@pytest.mark.parametrize("text", ["3", "a/b", "0/2", "3/2", "1/0", "-1/2"])
def test_texts_that_are_not_a_shard(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"shard '?{text}'? \(accepted: i/n"):
        Shard.parse(text)
