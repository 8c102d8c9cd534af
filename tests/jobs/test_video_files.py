from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_datasets import write_clip
from videokd.jobs.video_files import ignored_files, unreadable_folders, videos_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("hop/a_g1_.mp4", "hop/a_g2_.mp4", "run/b_g1_.mp4", "run/b_g2_.mp4"):
        write_clip(tmp_path / "in" / name)
    return tmp_path / "in"


def test_links_to_folders_are_followed_but_not_upwards(root: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "elsewhere" / "c.mp4")
    (root / "hop/linked").symlink_to(tmp_path / "elsewhere")
    (root / "hop/up").symlink_to("..")
    (root / "hop/round").symlink_to(".")
    assert [path.relative_to(root / "hop").as_posix() for path in videos_in(root / "hop")] == [
        "a_g1_.mp4",
        "a_g2_.mp4",
        "linked/c.mp4",
    ]
    assert unreadable_folders(root) == []


def test_ignored_files_are_counted(root: Path) -> None:
    assert ignored_files([root / "hop", root / "run"]) is None
    for name in ("a.txt", "b.TXT", "c.webp", "nosuffix", ".hidden"):
        (root / "hop" / name).touch()
    said = ignored_files([root / "hop", root / "run"])
    assert said is not None
    assert said.startswith("4 files are ignored, because they do not have the suffix of a video")
    assert "(2 with .txt, 1 with .webp, 1 with no suffix)" in said
