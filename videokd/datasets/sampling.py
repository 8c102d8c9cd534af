"""Which positions of a clip are looked at: segments → (gop, position). Pure; needs no pixels.

Temporal Segment Networks (Wang et al. 2016): the clip's positions are cut into equal spans; training takes a random one
from each, evaluation the middle one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from videokd.errors import DataError


def sample_positions(
    gop_lengths: Sequence[int],
    *,
    num_segments: int,
    first_position: int = 0,
    rng: np.random.Generator | None = None,
) -> tuple[tuple[int, int], ...]:
    """One (gop, position) for each segment.

    Args:
        gop_lengths: number of positions of each GOP.
        num_segments: S.
        first_position: 1 where a stream is read that carries nothing at an I-frame, otherwise 0. A span without such a
            position takes the nearest one; a clip with fewer positions than segments repeats them.
        rng: takes a random position of each span; without it, the middle one.

    Returns:
        S pairs, in order.

    Raises:
        DataError: no position is late enough: the clip is made of I-frames alone, or is empty.

    >>> sample_positions([4, 4], num_segments=2, first_position=1)
    ((0, 1), (1, 1))
    """
    lengths = np.asarray(gop_lengths, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    gop_of = np.repeat(np.arange(len(lengths)), lengths)
    position_of = np.arange(total) - starts[gop_of]
    allowed = np.flatnonzero(position_of >= first_position)
    if not len(allowed):
        raise DataError(
            f"a clip of {len(lengths)} GOPs has no position from {first_position} on: it is empty or has I-frames alone "
            "(accepted: GOPs with P-frames). Run `videokd prepare` on it."
        )
    edges = np.arange(num_segments + 1) * total // num_segments
    chosen = [_choose(allowed, int(low), int(high), rng) for low, high in pairwise(edges)]
    return tuple((int(gop_of[at]), int(position_of[at])) for at in chosen)


def _choose(allowed: np.ndarray, low: int, high: int, rng: np.random.Generator | None) -> int:
    """A member of `allowed` in [low, high), or the one nearest to its middle."""
    middle = (low + max(high - 1, low)) / 2
    first, last = np.searchsorted(allowed, (low, high))
    if rng is not None and last > first:
        return int(allowed[rng.integers(first, last)])
    return int(allowed[np.argmin(np.abs(allowed - middle))])
