"""Tiny datasets on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from videokd.codec.mp4_writer import Encoding
from videokd.codec.transcode import encode
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing


def write_clip(path: Path, *, num_frames: int = 14, seed: int = 0, gop: int = 250, frame_rate: float = 20) -> Path:
    """40×32 pixels of H.264 that move to the right."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = [np.roll(coarse, t, axis=1) for t in range(num_frames)]
    encode(frames, path, frame_rate=frame_rate, encoding=Encoding(codec="h264", gop=gop))
    return path


def listing(root: Path, *, flip: bool = True) -> Listing:
    return Listing(root, folder_layout(root), flip)


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
