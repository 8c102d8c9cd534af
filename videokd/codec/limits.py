"""How large a video may be before a reader refuses it."""

from __future__ import annotations

from dataclasses import dataclass

from videokd.errors import ConfigError

#: A chain keeps columns in 16 bits and rows in 15 (see motion.py).
_LARGEST_SIDE = 32767


@dataclass(frozen=True)
class Limits:
    """What a reader refuses, with a DecodeError that names the limit: `videokd.open(path, limits=Limits(...))` raises it.

    Headers lie: without limits a damaged file of a few bytes can ask for all the memory there is.

    Args:
        side: pixels, of the picture's width and height alike; at most 32767.
        gop_frames: positions of one GOP.
        reader_bytes: memory that one reader keeps between two reads, as estimated from the size of its pictures.
        stall_seconds: how long one packet may take to be read.

    Raises:
        ConfigError: a limit is not positive, or `side` is above 32767.
    """

    side: int = 8192
    gop_frames: int = 10_000
    reader_bytes: int = 1 << 30
    stall_seconds: float = 30.0

    def __post_init__(self) -> None:
        if min(self.side, self.gop_frames, self.reader_bytes, self.stall_seconds) <= 0 or self.side > _LARGEST_SIDE:
            raise ConfigError(f"{self} (accepted: all positive, side up to {_LARGEST_SIDE}). Correct the limits.")
