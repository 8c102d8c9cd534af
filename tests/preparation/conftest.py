"""Datasets on disk that several files of tests prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_datasets import write_clip


@pytest.fixture
def damaged(dataset: Path) -> Path:
    (dataset / "hop" / "bad_g3_c1.mp4").write_bytes(b"no video" * 100)
    write_clip(dataset / "run" / "short_g3_c1.mp4", num_frames=1)
    return dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("hop/a_g1_.mp4", "hop/a_g2_.mp4", "run/b_g1_.mp4", "run/b_g2_.mp4"):
        write_clip(tmp_path / "in" / name)
    return tmp_path / "in"
