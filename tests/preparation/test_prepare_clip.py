from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import videokd
from tests.conftest import MakeClip
from tests.preparation.test_prepare_dataset import ONE, SMALL
from tests.small_datasets import digests, listing, write_clip
from videokd.errors import DataError
from videokd.preparation import prepare_clip
from videokd.preparation.prepare_dataset import prepare
from videokd.preparation.verification import verify
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import SourceForm


def test_a_disk_that_loses_pictures_stops_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(source: Path, target: Path, encoding: Encoding) -> SourceForm:
        write_clip(target, num_frames=5)
        return SourceForm("h264", 20, "IPPPPP", 6)

    monkeypatch.setattr(prepare_clip, "transcode", losing)
    with pytest.raises(DataError, match=r"6 pictures were written, but 5 were found. Check the disk"):
        prepare(listing(dataset), tmp_path / "out", encoding=SMALL, workers=ONE, on_error="skip")


def test_keeping_files_as_they_are(dataset: Path, tmp_path: Path, make_clip: MakeClip) -> None:
    shutil.copy(make_clip("libvpx-vp9", num_frames=14, container="webm"), dataset / "hop/vp9_g3_c1.webm")
    shutil.copy(make_clip("mpeg4", b_frames=2), dataset / "run/b_g3_c1.mp4")
    shutil.copy(make_clip("mpeg4", gop=1), dataset / "run/i_g4_c1.mp4")
    out = tmp_path / "out"
    manifest = prepare(listing(dataset), out, encoding=SMALL, keep=True, workers=ONE)
    clips = {clip.video_id: clip for clip in manifest.clips}
    transcoded = {name for name, clip in clips.items() if clip.path.startswith("videos/")}
    assert transcoded == {"hop/vp9_g3_c1", "run/i_g4_c1"}  # no vectors; no P-frames
    for name, clip in clips.items():
        assert (clip.sha256 == clip.source_sha256) == (name not in transcoded)
        with videokd.open(manifest.file(clip)) as video:
            assert (video.num_frames, video.codec) == (clip.num_frames, clip.codec)
    assert clips["run/b_g3_c1"].source_b_frames > 0.5
    assert clips["hop/a_g1_c1"].source_gop == 14
    before = digests(out)
    assert prepare(listing(dataset), out, encoding=SMALL, keep=True, workers=ONE) == manifest
    assert digests(out) == before
    manifest.check_files()
    assert verify(out, dataset, workers=ONE) == 7


def test_kept_files_that_are_damaged_are_failures(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "hop/a_g1_c1.mp4"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"1 of 4 videos could not be prepared.*a_g1_c1.mp4"):
        prepare(listing(dataset), tmp_path / "out", encoding=SMALL, keep=True, workers=ONE)


def test_kept_files_that_cannot_be_read_at_random_are_transcoded(
    root: Path, tmp_path: Path, make_clip: MakeClip
) -> None:
    small, large = (make_clip("mpeg2video", container="ts", size=size) for size in ((128, 96), (64, 48)))
    (root / "hop/sizes_g3_.ts").write_bytes(small.read_bytes() + large.read_bytes())
    manifest = prepare(listing(root), tmp_path / "out", encoding=SMALL, keep=True, workers=ONE)
    assert [clip.source_path for clip in manifest.clips if clip.path.startswith("videos/")] == ["hop/sizes_g3_.ts"]
