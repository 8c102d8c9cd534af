"""Near-duplicates among the clips of an archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.description.test_clip import scene, write
from videokd.description import copies
from videokd.description.archive import describe_archive
from videokd.jobs.archive_files import files_of
from videokd.jobs.workers import Workers

ONE = Workers(jobs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip, two copies of it, the same scene with another motion, and another scene."""
    root = tmp_path_factory.mktemp("archive")
    pictures = scene(36)
    write(root / "a.mp4", pictures)
    write(root / "b_same_h264.mp4", pictures, "libx264")
    write(root / "c_smaller.mp4", [picture[::2, ::2] for picture in pictures])
    write(root / "d_other_motion.mp4", scene(36, step=(-3, -2)))
    write(root / "e_other.mp4", scene(36, seed=2))
    return root


def test_copies_point_at_the_first(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    done = describe_archive(files_of([str(folder)]), out, workers=ONE)
    found = {row.description.path: row.description.near_duplicate_of for row in done.rows}
    assert found == {
        "a.mp4": "",
        "b_same_h264.mp4": "a.mp4",
        "c_smaller.mp4": "a.mp4",
        "d_other_motion.mp4": "",
        "e_other.mp4": "",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_copies_are_looked_for_once_and_where_somebody_asks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, out, looked = files_of([str(folder)]), tmp_path / "t.parquet", []

    def looking(*given: object, **named: object) -> dict[int, int]:
        looked.append(given)
        return {1: 0}

    monkeypatch.setattr("videokd.description.archive.find_copies", looking)
    done = describe_archive(files, out, workers=ONE, near_duplicates=False)
    assert ({row.description.near_duplicate_of for row in done.rows}, looked) == ({None}, [])
    for _ in range(2):  # the second time, they are known
        done = describe_archive(files, out, workers=ONE)
        assert [row.description.near_duplicate_of for row in done.rows] == ["", "a.mp4", "", "", ""]
        assert len(looked) == 1
    describe_archive(files[1:], out, workers=ONE)  # the first is gone
    assert len(looked) == 2


def test_candidates_are_those_with_near_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = [int(value) for value in rng.integers(0, 1 << 63, 40)]
    hashes = [tuple(f"{value:016x}" for value in values[start : start + 2]) for start in range(0, 40, 2)]
    near = values[6] ^ 0b10110111  # six bits
    hashes += [(f"{near:016x}",), (), (f"{values[6] ^ (2**12 - 1):016x}",)]
    assert copies._candidates(hashes) == {20: [3], 22: [20]}
    # of a large archive, fewer hashes a clip are compared
    monkeypatch.setattr(copies, "_MOST_HASHES", 23)
    assert copies._candidates([*hashes[:20], (hashes[0][1], hashes[3][0])]) == {}


def test_a_clip_that_cannot_be_read_again_is_left_out(folder: Path, tmp_path: Path) -> None:
    same = ("00ff00ff00ff00ff",)
    clips = [(folder / "a.mp4", same), (tmp_path / "gone.mp4", same), (folder / "b_same_h264.mp4", same)]
    assert copies.find_copies(clips, tmp_path / "pictures", workers=ONE) == {2: 0}
    assert not (tmp_path / "pictures").exists()
