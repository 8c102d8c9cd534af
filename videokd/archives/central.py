"""Labels files in batches: other processes read them, and this one computes the networks, which is what a GPU needs."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import sys
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.archives.labelling import LabelledFile, Labelling, ReadFile, predictor_for, read_file
from videokd.errors import DecodeError
from videokd.jobs.archive_files import ArchiveFile
from videokd.jobs.workers import QUEUED_PER_JOB, Workers, with_bar
from videokd.prediction.batch import predictions_of, usual_batch
from videokd.prediction.predictor import Predictor
from videokd.prediction.wanted import Wanted
from videokd.types import STREAMS

_Streams = dict[str, npt.NDArray[np.uint8]]
_Task = tuple[ArchiveFile, int]


class Slots:
    """Memory that processes share, in equal places, each for the streams of one video. It has no name: it ends with the processes.

    Args:
        wanted: what students want of a video.
        num_segments: S, places looked at in each video.
        count: how many videos there is a place for.
    """

    def __init__(self, wanted: Wanted, num_segments: int, count: int) -> None:
        self._shapes = {
            key: (num_segments, side, side, STREAMS[stream].channels) for key, (stream, side) in wanted.inputs.items()
        }
        self._size = sum(map(math.prod, self._shapes.values()))
        self._with_torch = "torch" in sys.modules
        self.free = list(range(count))
        self._memory = multiprocessing.get_context("spawn").RawArray(ctypes.c_uint8, self._size * count)

    def share(self) -> None:
        """In another process: makes this the memory that streams are written to."""
        if (
            self._with_torch
        ):  # pictures are resized by it where it is loaded; so the same values come out as in this process
            import_module("torch")
        _shared[:] = [self]

    def put(self, slot: int, streams: Mapping[str, npt.NDArray[np.uint8]]) -> bool:
        """Writes a video's streams, uint8 [1, S, C, H, W]; whether they have the shapes of a place."""
        places = self._places(slot)
        if any(streams[key].shape != place.shape for key, place in places.items()):
            return False
        for key, place in places.items():
            place[:] = streams[key]
        return True

    def take(self, slot: int) -> _Streams:
        """A copy of what was written."""
        # of the memory as it lies, with the channels of a pixel side by side
        return {
            key: place.transpose(0, 1, 3, 4, 2).copy().transpose(0, 1, 4, 2, 3)
            for key, place in self._places(slot).items()
        }

    def _places(self, slot: int) -> _Streams:
        found, start = {}, slot * self._size
        memory = np.frombuffer(memoryview(self._memory), np.uint8)
        for key, shape in self._shapes.items():
            end = start + math.prod(shape)
            found[key] = memory[start:end].reshape(1, *shape).transpose(0, 1, 4, 2, 3)  # [1, S, C, H, W]
            start = end
        return found


_shared: list[Slots] = []


@dataclass(frozen=True)
class _Tasks(Collection[_Task]):
    """Files, each with a place for its streams, which it gets when its turn comes."""

    files: Sequence[ArchiveFile]
    slots: Slots

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[_Task]:
        return ((file, self.slots.free.pop()) for file in self.files)

    def __contains__(self, task: object) -> bool:
        return any(task == each for each in self.files)


def _read_into_slot(labelling: Labelling, wanted: Wanted, task: _Task) -> ReadFile:
    """Reads a file; its streams are in its place, or, where there is none of their shape, in what is returned."""
    file, slot = task
    read = read_file(labelling, wanted, file)
    return replace(read, streams={}) if _shared and _shared[0].put(slot, read.streams) else read


def label_in_batches(
    files: Sequence[ArchiveFile], labelling: Labelling, *, workers: Workers, made_with: str, done: int
) -> Generator[tuple[ArchiveFile, LabelledFile | DecodeError], None, None]:
    """Labels files; the arguments are those of `videokd.archives.archive.label_files`."""
    predictor = predictor_for(labelling, made_with)
    jobs, wanted = workers.num_jobs(len(files)), predictor.wanted
    size = labelling.batch_size or usual_batch(predictor)
    slots = Slots(wanted, labelling.num_segments or wanted.usual_segments, jobs * QUEUED_PER_JOB + 1)
    work = partial(_read_into_slot, labelling, wanted)
    together: list[tuple[ArchiveFile, ReadFile]] = []
    outcomes = with_bar(work, _Tasks(files, slots), workers, what="predict", done=done, start=slots.share)
    with closing(outcomes):
        for (file, slot), outcome in outcomes:
            if isinstance(outcome, DecodeError):
                yield file, outcome
            else:
                together.append((file, outcome if outcome.streams else replace(outcome, streams=slots.take(slot))))
            slots.free.append(slot)
            if len(together) == size:
                yield from _labelled(together, predictor, labelling, made_with)
                together = []
        yield from _labelled(together, predictor, labelling, made_with)


def _labelled(
    together: Sequence[tuple[ArchiveFile, ReadFile]], predictor: Predictor, labelling: Labelling, made_with: str
) -> Iterator[tuple[ArchiveFile, LabelledFile]]:
    """Those of equal shape at once."""
    groups: dict[Any, list[tuple[ArchiveFile, ReadFile]]] = {}
    for file, read in together:
        shapes = tuple((key, values.shape) for key, values in read.streams.items())
        groups.setdefault(shapes, []).append((file, read))
    for group in groups.values():
        given = [(file.name, read.streams, read.seconds, read.route) for file, read in group]
        predictions = predictions_of(given, predictor, top=labelling.top)
        for (file, read), prediction in zip(group, predictions, strict=True):
            yield file, LabelledFile(prediction, read.bytes, read.modified_ns, made_with)
