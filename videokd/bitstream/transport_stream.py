"""Checks the packets of an MPEG transport stream (ISO/IEC 13818-1, 2.4.3): which are missing, and where files were joined.

The packets of a PID have a counter, so a lost packet shows. Where files were joined, all counters restart, which FFmpeg takes for
losses. It is a join if the video continues with a new picture, and the tables before it are repeated with counters that jump too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Source

_SIZES = (188, 192, 204)
_TIMESTAMP = 4  # bytes before each packet of 192
_SYNC = 0x47
_PROBED = 16
_TABLES = 0  # PID of the program association table, with which a file starts

Bytes = npt.NDArray[np.uint8]


class TransportStream:
    """The packets of a transport stream.

    Args:
        source: of a video that FFmpeg recognises as a transport stream.
    """

    def __init__(self, source: Source) -> None:
        data: Bytes = source.as_array()
        start, size = _packet_layout(data)
        before = _TIMESTAMP if size == 192 and start >= _TIMESTAMP else 0
        start -= before
        count = (len(data) - start) // size if size else 0
        self._rest = len(data) - start - count * size if size else 0
        self._rows: Bytes = data[start : start + count * size].reshape(count, size or 1)[:, before:]
        # If the last packet does not start with the sync byte, packets are not evenly spaced, and nothing is known
        self._even = bool(count) and self._rows[-1, 0] == _SYNC

    @property
    def ends_inside_a_packet(self) -> bool:
        """Whether the last packet is incomplete."""
        return self._even and self._rest > 0

    def is_encrypted(self, pid: int) -> bool:
        """Whether the packets of a PID are scrambled."""
        return self._even and bool((self._rows[self._pids() == pid, 3] & 0xC0).any())

    def is_whole_or_joined(self, pid: int) -> bool:
        """Whether no packet of a PID is missing; counters may jump where files were joined."""
        if not self._even or not (self._rows[:, 0] == _SYNC).all():
            return False
        pids = self._pids()
        jumps = np.zeros(len(pids), np.bool_)
        for one in np.unique(pids):
            jumps |= self._counter_jumps(pids == one)
        video = np.flatnonzero(pids == pid)
        if not len(video) or (self._rows[video, 1] & 0x80).any():  # transport_error_indicator
            return False
        at = np.flatnonzero(jumps[video])
        return bool(len(at)) and all(self._is_join(video[n - 1], video[n], pids, jumps) for n in at)

    def _pids(self) -> npt.NDArray[np.int64]:
        return (self._rows[:, 1] & 0x1F).astype(np.int64) << 8 | self._rows[:, 2]

    def _counter_jumps(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool [packets]: where the counter of the chosen ones, all of one PID, does not increase by one."""
        chosen = chosen & (self._rows[:, 3] & 0x10 > 0)  # only packets with content count
        places = np.flatnonzero(chosen)
        counters = (self._rows[places, 3] & 0x0F).astype(np.int64)
        steps = np.diff(counters) % 16
        jumps = np.zeros(len(chosen), np.bool_)
        # The same packet may be sent twice
        twice = np.array(
            [np.array_equal(self._rows[a], self._rows[b]) for a, b in _neighbours(places, steps == 0)], np.bool_
        )
        wrong = steps != 1
        wrong[steps == 0] = ~twice
        jumps[places[1:][wrong]] = True
        return jumps

    def _is_join(self, before: int, after: int, pids: npt.NDArray[np.int64], jumps: npt.NDArray[np.bool_]) -> bool:
        between = slice(before + 1, after)
        starts = bool(self._rows[after, 1] & 0x40)  # payload_unit_start_indicator
        return starts and bool((pids[between] == _TABLES).any()) and bool(jumps[between].any())


def _neighbours(places: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    return list(zip(places[:-1][chosen].tolist(), places[1:][chosen].tolist(), strict=True))


def _packet_layout(data: Bytes) -> tuple[int, int]:
    """(first byte, size) of the packets; size 0 if they are not found."""
    for size in _SIZES:
        for start in range(min(size, len(data))):
            syncs = data[start::size][:_PROBED]
            if len(syncs) and (syncs == _SYNC).all() and len(data) - start >= size:
                return start, size
    return 0, 0
