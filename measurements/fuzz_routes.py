"""The routes by which `fuzz_codec.py` reads one damaged file: with and without an index, true or lying; by path, bytes, blocks, crops."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.codec.reader import VideoReader, open_video
from videokd.datasets.view import View, central_crop, read_inputs
from videokd.errors import DecodeError

STREAMS = ("iframe", "motion", "residual", "frame")
WITH_VECTORS = ("mpeg4", "h264", "mpeg1video", "mpeg2video", "h263", "wmv2", "flv")
#: How an outcome begins that is a fault
WORST_FIRST = ("CRASH", "HANG", "UNEXPECTED", "UNNAMED")
_NUMBERS = (0, 1, 2, 3, 7, 255, 4096, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
_RANDOM_READS = 6


class Everything:
    """Reads a video in every way, and keeps a checksum of all that came: equal memory must give equal checksums.

    Args:
        rng: draws the places of random reads.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.checksum = hashlib.sha256()
        self.count = 0

    def _take(self, *arrays: Any) -> None:
        self.count += 1
        for array in arrays:
            if array is not None:
                self.checksum.update(np.ascontiguousarray(array).data)

    def read(self, video: VideoReader) -> None:
        """All positions in order, random ones, blocks, crops and frames; motion alone first, where the decoder leaves pictures out."""
        chained = video.codec in WITH_VECTORS
        names = STREAMS if chained else ("iframe", "frame")
        for wanted in (("motion",), names) if chained else (names,):
            for each in video.iterate(streams=wanted):
                self._take(each.iframe, each.motion, each.residual, each.frame)
        places = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
        some = [places[int(self.rng.integers(len(places)))] for _ in range(_RANDOM_READS)]
        for gop, position in some:
            accumulate = bool(self.rng.integers(2))
            each = video.read(gop=gop, position=position, streams=names, accumulate=accumulate)
            self._take(each.iframe, each.motion, each.residual, each.frame)
        self._take(*video.stack(some, names).values())
        size = (video.width, video.height)
        view = View(tuple(some), (central_crop(*size),), size)
        self._take(*read_inputs(video, view, {name: (name, 32) for name in names if name != "frame"}).values())
        for frame in video.frames(vectors=chained, pictures=True):
            self._take(frame.picture)


def lying(index: VideoIndex, rng: np.random.Generator) -> VideoIndex:
    """An index whose places of packets are wrong: sizes, offsets and jumps that are extreme, exchanged or a little off."""
    assert index.places is not None, "only an index with places can lie about them"
    sizes, runs = list(index.places.sizes), [list(run) for run in index.places.runs]
    for _ in range(int(rng.integers(1, 5))):
        extreme, place = int(_NUMBERS[int(rng.integers(len(_NUMBERS)))]), int(rng.integers(len(sizes)))
        kind = int(rng.integers(5))
        if kind == 0:
            sizes[place] = max(extreme, 1)
        elif kind == 1:
            sizes[place] = max(sizes[place] + int(rng.integers(-9, 10)), 1)
        elif kind == 2:
            sizes = [sizes[int(at)] for at in rng.permutation(len(sizes))]
        elif kind == 3:
            runs[int(rng.integers(len(runs)))][1] = (-extreme, extreme)[int(rng.integers(2))]
        else:
            runs[int(rng.integers(len(runs)))][1] += int(rng.integers(-40, 41))
    places = replace(index.places, sizes=tuple(sizes), runs=tuple((packet, byte) for packet, byte in runs))
    return replace(index, places=places)


def routes(path: Path, original: VideoIndex | None, rng: np.random.Generator) -> dict[str, Callable[[], VideoReader]]:
    """{route: opens the file}.

    Args:
        path: of the damaged file.
        original: the index of the file before it was damaged; None: it has none.
        rng: for lies.
    """
    found: dict[str, Callable[[], VideoReader]] = {
        "path": lambda: open_video(path),
        "bytes": lambda: open_video(path.read_bytes()),
    }
    with suppress(DecodeError):
        own = index_video(path)
        found["own index"] = lambda: open_video(path, index=own)
        if own.places is not None:
            found["own index, lying"] = lambda: open_video(path, index=lying(own, rng))
    if original is not None:
        found["index of the intact file"] = lambda: open_video(path, index=original)
        if original.places is not None:
            found["index of the intact file, lying"] = lambda: open_video(path, index=lying(original, rng))
    return found


def read_by_all_routes(path: Path, original: VideoIndex | None, *, seed: list[int]) -> tuple[dict[str, str], str]:
    """({route: outcome}, checksum of all that was read).

    Args:
        path: of the damaged file.
        original: as for `routes`.
        seed: of lies and places.
    """
    outcomes, checksums = {}, []
    for number, (route, opening) in enumerate(routes(path, original, np.random.default_rng(seed)).items()):
        everything = Everything(np.random.default_rng([*seed, number]))
        outcomes[route] = _outcome(opening, everything, "<bytes>" if route == "bytes" else path.name)
        checksums.append(everything.checksum.hexdigest())
    return outcomes, hashlib.sha256("".join(checksums).encode()).hexdigest()


def _outcome(opening: Callable[[], VideoReader], everything: Everything, name: str) -> str:
    try:
        with opening() as video:
            everything.read(video)
        return "read" if everything.count else "read nothing"
    except DecodeError as error:
        message = str(error)
        if name not in message:
            return f"UNNAMED: {message}"
        words = message.split(name, 1)[1]
        return "DecodeError: " + "".join("#" if c.isdigit() else c for c in words)[:60]
    except Exception as error:  # finding other exceptions is what the fuzzing is for
        return f"UNEXPECTED {type(error).__name__}: {error}"


def index_or_none(path: Path) -> VideoIndex | None:
    """The index of an intact file."""
    try:
        return index_video(path)
    except DecodeError:
        return None
