"""Streams that no video has, for what draws them."""

from __future__ import annotations

import numpy as np

from videokd.drawing.panels import warp
from videokd.types import Streams

HEIGHT, WIDTH = 48, 64


def made_up_streams(*, position: int = 5, seed: int = 0) -> Streams:
    rng = np.random.default_rng(seed)
    iframe = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    motion = np.zeros((HEIGHT, WIDTH, 2), np.int16)
    motion[16:, 16:] = (7, -5)
    motion[HEIGHT - 5 :] = 0
    valid = np.ones((HEIGHT, WIDTH), np.bool_)
    valid[:16, :16] = False
    frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    residual = frame.astype(np.int16) - warp(iframe, motion)
    return Streams(2, position, iframe, frame, motion, residual, valid)
