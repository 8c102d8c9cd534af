"""The datasets that training and evaluation read: rows of a manifest to samples, samples to batches."""

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
    apply_crops,
    central_crop,
    first_position_of,
    random_crop,
    read_pictures,
    sample_positions,
    ten_crops,
)
from videokd.errors import DataError, VideoKDError
from videokd.types import Batch, Sample, check_streams

#: training: a random crop at random positions; quick and full: one crop, or ten, at the middle of each segment.
Views = Literal["training", "quick", "full"]

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_MADV_POPULATE_WRITE = 23
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class ClipDataset(Dataset[Sample]):
    """Clips as samples. A sample depends only on (seed, epoch, number), not on the process that loads it.

    Args:
        manifest: has the clips' folder, and whether they may be mirrored.
        clips: the rows to load.
        streams: names of the streams of a sample.
        num_segments: S.
        input_size: side of the pictures, in pixels.
        views: training, quick (middle of each segment, one crop) or full (the same with ten crops).
        seed: seed of the training views.
        cache: where decoded clips are kept; None: every sample is decoded again.

    Raises:
        ConfigError: a stream is unknown.
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
        """The sample of a clip's number in `clips`, or of (epoch, number).

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
        streams = apply_crops(raw, crops, size=self.input_size, quantised=self.cache is not None)
        return Sample(streams, clip.label, clip.video_id)

    @property
    def num_views(self) -> int:
        """Crops of each segment: ten (five without mirroring) in full views, otherwise one."""
        return len(ten_crops(8, 8, flip=self.manifest.flip)) if self.views == "full" else 1

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Sequence[Sample]:
        """The samples of a batch, each loaded when it is asked for, so that the next can use its memory."""
        return _LazySamples(self, items)

    def view(self, index: VideoIndex, rng: np.random.Generator) -> View:
        """The view of one sample, shared by all its streams.

        Args:
            index: the clip's index.
            rng: randomness of a training view.
        """
        lengths = [gop.num_positions for gop in index.gops]
        return self._view_of(lengths, first_position_of(self.streams), (index.width, index.height), rng)

    def _view_of(
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
        """{stream: pictures} in the streams' own units, and the crops to take of them."""
        index = VideoIndex.from_json(clip.index)
        view = self.view(index, rng)
        return self._read(clip, index, self.streams, view.segments), view.crops

    def _cached(self, clip: Clip, rng: np.random.Generator) -> tuple[dict[str, Pictures], tuple[Crop, ...]]:
        """{stream: pictures} from the cache, small and quantised, and the crops to take of them."""
        assert self.cache is not None
        index = cache(lambda: VideoIndex.from_json(clip.index))
        pictures_of = self.cache.read(
            clip.sha256,
            index,
            self.streams,
            lambda streams, positions: self._read(clip, index(), streams, positions),
        )
        view = self._view_of([self.cache.num_positions], 0, self.cache.size(clip.width, clip.height), rng)
        places = [position for _, position in view.segments]
        return {name: [pictures[place] for place in places] for name, pictures in pictures_of.items()}, view.crops

    def _read(
        self, clip: Clip, index: VideoIndex, streams: tuple[str, ...], positions: Sequence[tuple[int, int]]
    ) -> dict[str, Pictures]:
        """{stream: a picture [H, W, C] for each (gop, position)} in the streams' own units."""
        with open_video(self.manifest.root / clip.path, index=index) as video:
            return read_pictures(video, streams, positions)


@dataclass(frozen=True)
class JoinedClips(Dataset[Sample]):
    """Several datasets as one, such as labelled and unlabelled clips; numbers of clips count through them in order.

    Args:
        parts: the datasets.
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
        return _LazySamples(self, items)


@dataclass(frozen=True)
class _LazySamples(Sequence[Sample]):
    dataset: Dataset[Sample]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: Any) -> Any:
        return self.dataset[self.items[number]]


@dataclass(frozen=True)
class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, number), each epoch in its own order; a resumed run starts at its step.

    Args:
        num_clips: number of clips of the dataset; for `JoinedClips`, that of each part, so that every batch has clips of
            all parts in proportion.
        batch_size: clips of a batch over all ranks; an incomplete batch at the end of an epoch is dropped.
        seed: seed of the order.
        first_step: number of the first batch.
        rank: number of this process.
        num_ranks: number of processes that divide each batch between them.
    """

    num_clips: int | tuple[int, ...]
    batch_size: int
    seed: int = 0
    first_step: int = 0
    rank: int = 0
    num_ranks: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch; at least one."""
        return max(sum(self._parts) // self.batch_size, 1)

    @property
    def _parts(self) -> tuple[int, ...]:
        return self.num_clips if isinstance(self.num_clips, tuple) else (self.num_clips,)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The clips' numbers in the order of one epoch; those of several datasets are mixed evenly."""
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
    """Joins samples to a batch, in memory in PyTorch's `channels_last` order, like the samples.

    Args:
        samples: all with the same streams and shapes.

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
                streams[name] = _empty_batch(len(samples), *values.shape)
            streams[name].numpy()[number].transpose(0, 2, 3, 1)[...] = values.transpose(0, 2, 3, 1)
    return Batch(streams, torch.tensor(labels), tuple(video_ids))


def _empty_batch(count: int, segments: int, channels: int, height: int, width: int) -> Tensor:
    """Memory for [B, S, C, H, W]; in a worker it is shared with the main process, so that nothing is copied."""
    shape = (count, segments, height, width, channels)
    batch = torch.empty(0, dtype=torch.uint8)
    if get_worker_info() is not None:
        memory = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
        batch.set_(memory, 0, shape)  # type: ignore[call-overload]
        _map_at_once(batch)
    else:
        batch.resize_(shape)
    return batch.permute(0, 1, 4, 2, 3)


def _map_at_once(shared: Tensor) -> None:
    """Maps all pages of new shared memory at once, because page faults for each take half as long again.

    Where the kernel cannot do that (before Linux 5.14, or another system), there are page faults.
    """
    if _LIBC is not None:
        _LIBC.madvise(ctypes.c_void_p(shared.data_ptr()), ctypes.c_size_t(shared.numel()), _MADV_POPULATE_WRITE)


def training_batches(
    dataset: ClipDataset | JoinedClips, batches: EpochBatches, *, workers: int, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Endless training batches.

    Args:
        dataset: the clips.
        batches: which clips each batch has.
        workers: number of loading processes; 0: this process loads.
        pin_memory: page-locked memory, for asynchronous copies to a GPU.

    Raises:
        VideoKDError: a clip cannot be loaded.
        DataError: a loading process ended, for example out of memory.
    """
    return _loaded(dataset, workers=workers, pin_memory=pin_memory, batch_sampler=batches)


def evaluation_batches(
    dataset: ClipDataset, *, batch_size: int, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Batches of every clip once, in order; arguments and errors as for `training_batches`."""
    count = len(dataset)
    chunks = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    return _loaded(dataset, workers=min(workers, len(chunks)), pin_memory=pin_memory, batch_sampler=chunks)


def _loaded(
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
        # Its own generator: otherwise the loader would change the global random state, and a resumed run would differ
        generator=torch.Generator().manual_seed(0),
    )
    try:
        with _signals_blocked():
            batches = iter(loader)
        yield from batches
    except VideoKDError as error:
        # A worker's error arrives as the text of its traceback; the last line is the message
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from error
    except (RuntimeError, OSError, EOFError) as error:
        reason = _reason_of_a_lost_worker(error) if workers else None
        if reason is None:
            raise
        raise DataError(
            f"a process that loads clips ended ({reason}): it was killed, or out of memory or shared memory ({_shared_memory()}). Pass "
            "fewer workers (`--data.workers 0` in training, `--workers 0` in `videokd evaluate`), or give a container more "
            "(`--shm-size 8g`)."
        ) from error


def _reason_of_a_lost_worker(error: Exception) -> str | None:
    """The line that says how a loading process ended; None for other errors."""
    if not isinstance(error, RuntimeError):  # its pipe broke; a message that a worker sent begins with "Caught"
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
def _signals_blocked() -> Iterator[None]:
    """Blocks signals in this process and in those started meanwhile, until these ignore them."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ignores Ctrl-C and the signals of batch systems in a worker: the main process still needs it to finish its step and save."""
    for kind in _STOPPING:
        signal.signal(kind, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
