"""Manifest rows to samples, samples to batches."""

from __future__ import annotations

import ctypes
import math
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.cache import DecodedCache
from videokd.datasets.manifest import Clip, Manifest
from videokd.datasets.view import (
    Crop,
    Pictures,
    View,
    apply_crop,
    central_crop,
    random_crop,
    read_pictures,
    sample_positions,
    ten_crops,
)
from videokd.errors import DataError, VideoKDError
from videokd.types import STREAMS, Batch, Sample, check_streams

#: In training a random part of the clip at random moments; otherwise the middles, seen through one or ten crops.
Views = Literal["training", "quick", "full"]

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_MADV_POPULATE_WRITE = 23
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class ClipDataset(Dataset[Sample]):
    """Clips as samples: the same sample for the same (seed, epoch, number), whoever loads it.

    Args:
        manifest: where the clips lie, and whether mirroring keeps their class.
        clips: the rows to load.
        streams: which streams a sample has.
        num_segments: S.
        input_size: side of the pictures, in pixels.
        views: training, quick (middles of the segments, one crop) or full (ten crops).
        seed: of the training views.
        cache: where decoded clips are kept; without it, every sample is decoded anew.
    """

    manifest: Manifest
    clips: tuple[Clip, ...]
    streams: tuple[str, ...]
    num_segments: int
    input_size: int
    views: Views
    seed: int = 0
    cache: DecodedCache | None = None

    def __post_init__(self) -> None:
        check_streams(self.streams, where="streams of the dataset")

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        """The sample of a clip's number, or of (epoch, number).

        Raises:
            DecodeError: the clip cannot be read; the message names it.
            DataError: the clip has no position that the streams need; the message names it.
        """
        epoch, number = item if isinstance(item, tuple) else (0, item)
        clip = self.clips[number]
        rng = np.random.default_rng((self.seed, epoch, number))
        try:
            raw, crops = self._cached(clip, rng) if self.cache is not None else self._decoded(clip, rng)
        except DataError as error:
            raise DataError(f"{self.manifest.root / clip.path}: {error}") from error
        streams = {
            name: _joined(
                [
                    apply_crop(values, crop, spec=STREAMS[name], size=self.input_size, quantised=self.cache is not None)
                    for crop in crops
                ]
            )
            for name, values in raw.items()
        }
        return Sample(streams, clip.label, clip.video_id)

    @property
    def num_views(self) -> int:
        """Crops of each segment: ten (five without mirroring) in full views, otherwise one."""
        return len(ten_crops(8, 8, flip=self.manifest.flip)) if self.views == "full" else 1

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Sequence[Sample]:
        """The samples of a batch, each loaded when it is asked for, so that its memory serves the next one too."""
        return _Samples(self, items)

    def view(self, index: VideoIndex, rng: np.random.Generator) -> View:
        """The record of one sample, shared by all its streams."""
        lengths = [gop.num_positions for gop in index.gops]
        first_position = max(STREAMS[name].first_position for name in self.streams)
        return self._record(lengths, first_position, (index.width, index.height), rng)

    def _record(
        self, lengths: Sequence[int], first_position: int, size: tuple[int, int], rng: np.random.Generator
    ) -> View:
        training = self.views == "training"
        segments = sample_positions(
            lengths, num_segments=self.num_segments, first_position=first_position, rng=rng if training else None
        )
        if training:
            return View(segments, (random_crop(*size, flip=self.manifest.flip, rng=rng),))
        return View(
            segments, ten_crops(*size, flip=self.manifest.flip) if self.views == "full" else (central_crop(*size),)
        )

    def _decoded(self, clip: Clip, rng: np.random.Generator) -> tuple[dict[str, Pictures], tuple[Crop, ...]]:
        """Pictures in the streams' own units, and the crops of them."""
        index = VideoIndex.from_json(clip.index)
        view = self.view(index, rng)
        return self._read(clip, index, self.streams, view.segments), view.crops

    def _cached(self, clip: Clip, rng: np.random.Generator) -> tuple[dict[str, Pictures], tuple[Crop, ...]]:
        """Small quantised pictures, and the crops of them."""
        assert self.cache is not None
        index = cache(lambda: VideoIndex.from_json(clip.index))
        kept = self.cache.read(
            clip.sha256,
            index,
            self.streams,
            lambda streams, positions: self._read(clip, index(), streams, positions),
        )
        view = self._record([self.cache.num_positions], 0, self.cache.size(clip.width, clip.height), rng)
        moments = [position for _, position in view.segments]
        return {name: [pictures[moment] for moment in moments] for name, pictures in kept.items()}, view.crops

    def _read(
        self, clip: Clip, index: VideoIndex, streams: tuple[str, ...], positions: Sequence[tuple[int, int]]
    ) -> dict[str, Pictures]:
        """{stream: a picture [H, W, C] for each (gop, position)} in the streams' own units."""
        with open_video(self.manifest.root / clip.path, index=index) as video:
            return read_pictures(video, streams, positions)


@dataclass(frozen=True)
class JoinedClips(Dataset[Sample]):
    """Clips of several datasets as one, such as labelled and unlabelled ones; the first dataset's come first.

    Args:
        parts: each with clips of its own folder.
    """

    parts: tuple[ClipDataset, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The sample of (epoch, number); errors as for `ClipDataset`."""
        epoch, number = item
        for part in self.parts:
            if number < len(part):
                return part[epoch, number]
            number -= len(part)
        raise IndexError(f"no clip {item[1]} (accepted: 0 to {len(self) - 1})")

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Sequence[Sample]:
        """The samples of a batch, each loaded when it is asked for."""
        return _Samples(self, items)


@dataclass(frozen=True)
class _Samples(Sequence[Sample]):
    dataset: Dataset[Sample]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: Any) -> Any:
        return self.dataset[self.items[number]]


@dataclass(frozen=True)
class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, number) without end, each epoch in its own order; a resumed run starts at its step.

    Args:
        num_clips: clips of the dataset; of several joined ones, those of each: every batch has its share of them.
        batch_size: clips of a batch over all ranks; what is left of an epoch is dropped.
        seed: of the order.
        first_step: number of the first batch.
        rank: which share of each batch is given.
        num_ranks: shares of each batch.
    """

    num_clips: int | tuple[int, ...]
    batch_size: int
    seed: int = 0
    first_step: int = 0
    rank: int = 0
    num_ranks: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; at least one."""
        return max(sum(self._parts) // self.batch_size, 1)

    @property
    def _parts(self) -> tuple[int, ...]:
        return self.num_clips if isinstance(self.num_clips, tuple) else (self.num_clips,)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The clips' numbers as they come in one epoch; those of several datasets evenly mixed."""
        rng = np.random.default_rng((self.seed, epoch))
        starts = np.cumsum((0, *self._parts))
        orders = [start + rng.permutation(count) for start, count in zip(starts, self._parts, strict=False)]
        places = [(np.arange(count) + 0.5) / count for count in self._parts]
        return np.concatenate(orders)[np.argsort(np.concatenate(places), kind="stable")]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        while True:
            order = self._order(epoch)
            for step in range(skip, self.steps_per_epoch):
                numbers = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(number)) for number in numbers[self.rank :: self.num_ranks]]
            epoch, skip = epoch + 1, 0


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch.

    In memory the channels of a pixel lie side by side, as in the samples: PyTorch's `channels_last`.

    >>> sample = Sample({"motion": np.zeros((3, 2, 8, 8), np.uint8)}, label=1, video_id="a")
    >>> collate([sample, sample])
    Batch(streams={motion: uint8[2, 3, 2, 8, 8]}, label=int64[2], video_ids=('a', 'a'))
    """
    streams: dict[str, Tensor] = {}
    labels, video_ids = [], []
    for number, sample in enumerate(samples):
        labels.append(sample.label)
        video_ids.append(sample.video_id)
        for name, values in sample.streams.items():
            if not number:
                streams[name] = _empty(len(samples), *values.shape)
            streams[name].numpy()[number].transpose(0, 2, 3, 1)[...] = values.transpose(0, 2, 3, 1)
    return Batch(streams, torch.tensor(labels), tuple(video_ids))


def _joined(crops: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Crops [S, C, H, W] one after the other, their channels side by side in memory."""
    if len(crops) == 1:
        return crops[0]
    return np.concatenate([crop.transpose(0, 2, 3, 1) for crop in crops]).transpose(0, 3, 1, 2)


def _empty(count: int, segments: int, channels: int, height: int, width: int) -> Tensor:
    """[B, S, C, H, W]; a worker's where the main process will find it, so that it is written once."""
    shape = (count, segments, height, width, channels)
    stack = torch.empty(0, dtype=torch.uint8)
    if get_worker_info() is not None:
        memory = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
        stack.set_(memory, 0, shape)  # type: ignore[call-overload]
        _map_at_once(stack)
    else:
        stack.resize_(shape)
    return stack.permute(0, 1, 4, 2, 3)


def _map_at_once(shared: Tensor) -> None:
    """Has the kernel map all pages of fresh shared memory in one go: faulting them in one by one takes half as long again.

    Where the kernel cannot (before Linux 5.14, or another system), they are faulted in.
    """
    if _LIBC is not None:
        _LIBC.madvise(ctypes.c_void_p(shared.data_ptr()), ctypes.c_size_t(shared.numel()), _MADV_POPULATE_WRITE)


def training_batches(
    dataset: ClipDataset | JoinedClips, batches: EpochBatches, *, workers: int, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Batches without end, loaded by `workers` processes (0: by this one)."""
    return _load(dataset, workers=workers, pin_memory=pin_memory, batch_sampler=batches)


def evaluation_batches(
    dataset: ClipDataset, *, batch_size: int, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Every clip once, in order."""
    count = len(dataset)
    chunks = [
        list(range(start, min(start + batch_size, count)))
        for start in range(0, batch_size * math.ceil(count / batch_size), batch_size)
    ]
    return _load(dataset, workers=min(workers, len(chunks)), pin_memory=pin_memory, batch_sampler=chunks)


def _load(
    dataset: Dataset[Sample], *, workers: int, pin_memory: bool, batch_sampler: Any
) -> Generator[Batch, None, None]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_main_process,
        # Without a generator of its own, starting to load would move the global random state, and a resumed run differ
        generator=torch.Generator().manual_seed(0),
    )
    try:
        with _signals_held():
            batches = iter(loader)
        yield from batches
    except VideoKDError as error:
        # a worker's error arrives as the text of its whole traceback; the last line is the message
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from error
    except (RuntimeError, OSError, EOFError) as error:
        reason = _reason_of_a_lost_worker(error) if workers else None
        if reason is None:
            raise
        raise DataError(
            f"a process that loads clips ended ({reason}): it was killed, or memory or shared memory ran out ({_shared_memory()}). Pass "
            "fewer workers (`--data.workers 0` in training, `--workers 0` in `videokd evaluate`), or give a container more "
            "(`--shm-size 8g`)."
        ) from error


def _reason_of_a_lost_worker(error: Exception) -> str | None:
    """The line that tells how a loading process ended; None where the error is another one."""
    if not isinstance(error, RuntimeError):  # the pipe to it broke; what a worker raised itself begins with "Caught"
        return None if str(error).startswith("Caught") else type(error).__name__
    lines = str(error).splitlines()
    signs = ("DataLoader worker (pid", "shared memory", "/torch_", "ancdata", "Too many open files")
    return next((line.strip()[:120] for line in lines if any(sign in line for sign in signs)), None)


def _shared_memory() -> str:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return "there is no /dev/shm"
    return f"/dev/shm has {usage.total / 2**20:.0f} MiB"


@contextmanager
def _signals_held() -> Iterator[None]:
    """Processes started here begin with signals held back, until they ignore them."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C, and what batch systems send, reach every process; the main one finishes its step, saves, and needs its workers."""
    for kind in _STOPPING:
        signal.signal(kind, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
