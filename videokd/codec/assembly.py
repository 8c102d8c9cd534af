"""The streams of one position, put together from where a cursor stands."""

from __future__ import annotations

import numpy as np

from videokd.codec.cursor import Cursor, Decoded
from videokd.kernels.motion import Follower, motion_of_chain, motion_of_frame
from videokd.kernels.residual import difference
from videokd.types import Streams


def first_streams(gop: int, size: tuple[int, int], first: Decoded | None, wanted: frozenset[str]) -> Streams:
    """The streams at position 0, where nothing has moved yet.

    Args:
        gop: number of the GOP.
        size: height and width, in pixels.
        first: the GOP's first frame; None where no picture is wanted.
        wanted: names of streams.
    """
    return Streams(
        gop=gop,
        position=0,
        iframe=first.shared_image() if first is not None and "iframe" in wanted else None,
        frame=first.image() if first is not None and "frame" in wanted else None,
        motion=np.zeros((*size, 2), np.int16) if "motion" in wanted else None,
        residual=np.zeros((*size, 3), np.int16) if "residual" in wanted else None,
        valid=np.ones(size, np.bool_) if "motion" in wanted else None,
    )


def streams_at(cursor: Cursor, size: tuple[int, int], wanted: frozenset[str], follower: Follower | None) -> Streams:
    """The streams at a later position.

    Args:
        cursor: stands there.
        size: height and width, in pixels.
        wanted: names of streams.
        follower: where motion and residual are relative to the position before: moves its frame; None where they are accumulated.
    """
    motion = valid = residual = None
    if "motion" in wanted and follower is None:
        motion, valid = motion_of_chain(cursor.chain())
    elif "motion" in wanted:
        motion, valid = motion_of_frame(cursor.vectors(), *size)
    frame = cursor.current.image() if "frame" in wanted else None
    if "residual" in wanted and follower is None:
        residual = cursor.current.minus(cursor.warped())
    elif "residual" in wanted and follower is not None:
        residual = difference(cursor.current.rows(), cursor.previous_moved(follower))
    return Streams(
        gop=cursor.gop,
        position=cursor.position,
        iframe=cursor.first.shared_image() if "iframe" in wanted else None,
        frame=frame,
        motion=motion,
        residual=residual,
        valid=valid,
    )
