"""Tiny datasets on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videokd.datasets.manifest import Manifest
from videokd.jobs.workers import Workers
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import prepare
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode


def write_clip(path: Path, *, num_frames: int = 14, seed: int = 0, gop: int = 250, frame_rate: float = 20) -> Path:
    """40×32 pixels of H.264 that move to the right."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = [np.roll(coarse, t, axis=1) for t in range(num_frames)]
    encode(frames, path, frame_rate=frame_rate, encoding=Encoding(codec="h264", gop=gop))
    return path


def listing(root: Path, *, flip: bool = True) -> Listing:
    return Listing(root, folder_layout(root), flip)


def prepared_clips(folder: Path, make_clip: Callable[..., Path], count: int) -> Manifest:
    """Clips of 20 frames of two classes, two in each group, prepared with a short side of 64."""
    for number in range(count):
        path = folder / f"in/{'ab'[number % 2]}/x_g{number // 2:02d}_c1.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(make_clip("mpeg4", num_frames=20, seed=number), path)
    return prepare(listing(folder / "in"), folder / "out", encoding=Encoding(short_side=64), workers=Workers(jobs=1))


def digests(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of the videos and the manifest."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix == ".mp4" or path.name == "manifest.parquet"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    names = ["hop/a_g1_c1.mp4", "hop/a_g2_c1.mp4", "run/é (1)#_g1_c1.mp4", "run/b_g2_c1.mp4"]
    for seed, name in enumerate(names):
        write_clip(root / name, num_frames=14 + seed, seed=seed)
    return root
