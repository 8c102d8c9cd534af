"""Finds clips of an archive that show what an earlier clip shows, such as re-encoded, resized or trimmed copies.

Perceptual hashes of I-frames tell which clips look alike; in archives with a fixed camera these are many more than the copies. So such
clips are then compared picture by picture, as `datasets/near_duplicates.py` does.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.errors import DecodeError
from videokd.files import written_whole
from videokd.jobs.workers import Workers, with_bar
from videokd.kernels.block_copies import compiled

_MOST_BITS = 8  # of 64, by which the hashes of alike pictures differ
# Share of a clip's changes that a copy leaves unexplained (datasets/near_duplicates.py). Stricter than where test clips are concerned: nobody
# wants to lose a person's second take
_MOST_UNEXPLAINED = 0.2
_MOST_CANDIDATES = 32  # of the earlier clips, those whose hashes are nearest
_MOST_HASHES = 1_500_000  # compared each with each, which takes minutes; of larger archives, fewer a clip
_PICTURES_IN_MEMORY = 256  # clips


@dataclass(frozen=True)
class _PicturesTask:
    """A clip, and the file that its small pictures are written to."""

    source: Path
    target: Path


def find_copies(clips: Sequence[tuple[Path, tuple[str, ...]]], folder: Path, *, workers: Workers) -> dict[int, int]:
    """The clips that are near-duplicates of an earlier one.

    Args:
        clips: (file, hashes of its I-frames) of each.
        folder: for small pictures of clips that look alike; made, and removed at the end.
        workers: where these are made.

    Returns:
        {number of a clip: number of an earlier clip}. The earlier one is never a near-duplicate itself.

    Raises:
        DataError: the folder cannot be written.
    """
    candidates = _candidates([hashes for _, hashes in clips])
    if not candidates:
        return {}
    looked_at = sorted({*candidates, *(number for numbers in candidates.values() for number in numbers)})
    tasks = [_PicturesTask(clips[number][0], folder / f"{number}.npy") for number in looked_at]
    try:
        for _ in with_bar(_write_pictures, tasks, workers, what="compare", done=0):
            pass
        return _copies_among(candidates, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copies_among(candidates: dict[int, list[int]], folder: Path) -> dict[int, int]:
    from videokd.datasets.near_duplicates import copied_from

    @lru_cache(_PICTURES_IN_MEMORY)
    def pictures(number: int) -> npt.NDArray[np.uint8] | None:
        file = folder / f"{number}.npy"
        return np.load(file) if file.exists() else None

    copies: dict[int, int] = {}
    for number, earlier in sorted(candidates.items()):
        ours = pictures(number)
        readable = [other for other in earlier if pictures(other) is not None]
        if ours is None or not readable:
            continue
        others = [pictures(other) for other in readable]
        found = copied_from(ours, others, unexplained=_MOST_UNEXPLAINED)  # type: ignore[arg-type]
        if found is not None:
            copies[number] = copies.get(readable[found], readable[found])
    return copies


def _write_pictures(task: _PicturesTask) -> None:
    """Writes a clip's small pictures; a clip that cannot be read again is left out."""
    from videokd.datasets.near_duplicates import small_pictures

    try:
        found = small_pictures(task.source)
    except DecodeError:
        return
    with written_whole(task.target) as aside, aside.open("wb") as file:
        np.save(file, found)


def _candidates(hashes: Sequence[tuple[str, ...]]) -> dict[int, list[int]]:
    """{number of a clip: numbers of earlier clips that have a picture like one of its pictures, nearest first}."""
    most = max(_MOST_HASHES // max(len(hashes), 1), 1)
    kept = [own[:most] for own in hashes]
    values = np.array([int(value, 16) for own in kept for value in own], np.uint64)
    owners = np.repeat(np.arange(len(kept)), [len(own) for own in kept])
    starts = np.concatenate([[0], np.cumsum([len(own) for own in kept])])
    nearest = np.empty(len(kept), np.uint8)
    found = {}
    for number in range(1, len(kept)):
        nearest[:number] = 255
        _nearest(values, owners, starts[number], starts[number + 1], nearest)
        alike = np.flatnonzero(nearest[:number] <= _MOST_BITS)
        if len(alike):
            order = np.argsort(nearest[alike], kind="stable")[:_MOST_CANDIDATES]
            found[number] = alike[order].tolist()
    return found


@compiled
def _nearest(
    values: npt.NDArray[np.uint64], owners: Any, start: int, end: int, nearest: npt.NDArray[np.uint8]
) -> None:  # pragma: no cover (compiled)
    """For each clip before that of the hashes from start to end, the fewest bits by which two hashes of both differ."""
    for own in range(start, end):
        for other in range(start):
            bits = values[own] ^ values[other]
            bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
            bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
            bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
            count = np.uint8((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))
            nearest[owners[other]] = min(nearest[owners[other]], count)
