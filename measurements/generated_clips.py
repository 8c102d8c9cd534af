"""Generated clips for measurements of decoding: objects that move over a panning background, with camera noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode

SEED = 0


def scene(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Frames, uint8 [H, W, 3]: objects that move over a panning background, with camera noise."""
    rng = np.random.default_rng(SEED)
    coarse = rng.integers(0, 256, (height // 16 + 32, width // 16 + 32, 3)).astype(np.float32)
    background: np.ndarray = coarse.repeat(16, axis=0).repeat(16, axis=1)
    for axis in (0, 1):
        shifted = [np.roll(background, 4 * shift, axis) for shift in range(4)]
        background = sum(shifted[1:], shifted[0]) / 4
    sides = rng.integers(height // 12, height // 4, 12)
    colours = rng.integers(0, 256, (12, 3))
    starts, speeds = rng.uniform(0, 1, (12, 2)), rng.uniform(-6, 6, (12, 2))
    for t in range(num_frames):
        picture = (
            background[t : t + height, 2 * t : 2 * t + width].copy() if 2 * t < 256 else background[:height, :width]
        )
        for side, colour, start, speed in zip(sides, colours, starts, speeds, strict=True):
            x, y = ((start * (width, height) + speed * t) % (width - side, height - side)).astype(int)
            picture[y : y + side, x : x + side] = picture[y : y + side, x : x + side] * 0.3 + colour * 0.7
        noise = rng.normal(0, 3, (height, width, 1))
        yield np.clip(picture + noise, 0, 255).astype(np.uint8)


def generate(folder: Path, size: str, num_frames: int) -> dict[str, Path]:
    """{name: clip} of the three kinds, of one size."""
    width, height = map(int, size.split("x"))
    pictures = list(scene(num_frames, height, width))
    clips = {}
    for name in ("mpeg4", "h264"):
        clips[f"generated {size} {name} GOP 12"] = path = folder / f"{name}-{size}.mp4"
        encode(pictures, path, frame_rate=25, encoding=Encoding(codec=name, gop=12))
    clips[f"generated {size} h264 default"] = path = folder / f"default-{size}.mp4"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return clips
