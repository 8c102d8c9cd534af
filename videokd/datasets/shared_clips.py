"""Clips in memory that processes share: handing any number of them to a loading process takes no time, and no memory of its own."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from typing import Any, overload

import numpy as np

from videokd.datasets.manifest import Clip


class SharedClips(Sequence[Clip]):
    """Clips that are kept, pickled one by one, in a file without a name; it is gone when the last process that reads it ends.

    Args:
        clips: any number of them.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        pickled = [pickle.dumps(clip, pickle.HIGHEST_PROTOCOL) for clip in clips]
        ends = np.cumsum([0, *map(len, pickled)], dtype=np.int64)
        descriptor = _file_without_a_name()
        with open(descriptor, "wb", closefd=False) as file:
            file.write(ends.tobytes())
            file.writelines(pickled)
        self._map(descriptor, len(pickled))

    def _map(self, descriptor: int, count: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self._ends = np.frombuffer(self._memory, np.int64, count + 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_another_process, (DupFd(self._descriptor), len(self))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> Clip: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, number: int | slice) -> Clip | tuple[Clip, ...]:
        if isinstance(number, slice):
            return tuple(self[each] for each in range(*number.indices(len(self))))
        start, end = self._ends.nbytes + self._ends[range(len(self))[number] + np.arange(2)]
        clip: Clip = pickle.loads(self._memory[start:end])
        return clip


def _from_another_process(descriptor: Any, count: int) -> SharedClips:
    clips = SharedClips.__new__(SharedClips)
    clips._map(descriptor.detach(), count)
    return clips


def _file_without_a_name() -> int:
    """Its descriptor: in memory where the system can do that, since containers often have little /dev/shm; else among temporary files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("videokd-clips")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
