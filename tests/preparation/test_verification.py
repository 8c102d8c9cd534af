from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

from tests.preparation.test_prepare_dataset import ONE, SMALL, TWO
from tests.small_datasets import digests, listing
from videokd.codec.index import VideoIndex
from videokd.errors import DataError
from videokd.preparation import verification
from videokd.preparation.prepare_dataset import prepare
from videokd.preparation.verification import verify


def test_verifying(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(listing(dataset), out, encoding=SMALL, workers=ONE)
    before = digests(out)
    assert verify(out, dataset, workers=TWO) == 4
    damaged = out / "videos/hop/a_g1_c1.mp4"
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 1
    damaged.write_bytes(content)  # of the same size
    (out / "videos/run/b_g2_c1.mp4").unlink()
    source = dataset / "hop/a_g2_c1.mp4"
    modified = source.stat()
    changed = bytearray(source.read_bytes())
    changed[-1] ^= 1
    source.write_bytes(changed)
    os.utime(source, ns=(modified.st_atime_ns, modified.st_mtime_ns))
    with pytest.raises(
        DataError, match=r"3 of 4 clips or their sources have changed, .* without --verify to prepare them again"
    ):
        verify(out, dataset, workers=ONE)
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert "has changed since it was prepared" in reasons["hop/a_g1_c1.mp4"]
    assert "source/hop/a_g2_c1.mp4 has changed" in reasons["hop/a_g2_c1.mp4"]
    assert "is missing" in reasons["run/b_g2_c1.mp4"]
    source.write_bytes(bytes(changed[:-1]) + bytes([changed[-1] ^ 1]))
    prepare(listing(dataset), out, encoding=SMALL, workers=ONE)
    assert digests(out) == before
    assert not (out / "failures.csv").exists()
    shutil.rmtree(dataset)
    assert verify(out, dataset, workers=ONE) == 0


def test_verifying_sees_another_reading(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(listing(dataset), tmp_path / "out", encoding=SMALL, workers=ONE)
    monkeypatch.setattr(verification, "index_video", lambda path: VideoIndex("", 0, 0, 0, 0, "", (), (), (), ()))
    with pytest.raises(DataError, match=r"4 of 4 clips .* is read differently than when it was prepared"):
        verify(tmp_path / "out", dataset, workers=ONE)
