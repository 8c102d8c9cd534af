"""Samples to batches, loaded by this process or by others."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.datasets.loading_processes import LoadingEnded, begin, start_method, starting
from videokd.datasets.order import EpochBatches
from videokd.errors import VideoKDError
from videokd.types import Batch, Sample

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_MADV_POPULATE_WRITE = 23
_CORES_OF_CONTAINER = Path("/sys/fs/cgroup/cpu.max")
# Beyond this many, batches that wait take more memory than they are worth
_FEW_WORKERS, _MOST_WORKERS = 4, 16
_WITHOUT = "Pass fewer workers (`--data.workers 0` in training, `--workers 0` in `videokd evaluate`)"
# How often waiting looks whether the loading processes are alive, and how many times in a row they may have loaded nothing: half an hour.
# Not a time: a stopped process waits too.
_LOOK_SECONDS, _MOST_LOOKS = 5, 360


def collate(samples: Sequence[Sample]) -> Batch:
    """Joins samples to a batch, in memory in PyTorch's `channels_last` order, like the samples.

    Args:
        samples: all with the same streams and shapes.

    >>> import numpy as np
    >>> sample = Sample({"motion": np.zeros((3, 2, 8, 8), np.uint8)}, label=1, video_id="a")
    >>> collate([sample, sample])
    Batch(streams={motion: uint8[2, 3, 2, 8, 8]}, label=int64[2], video_ids=('a', 'a'), clips=int64[2],
        views=int64[2])
    """
    streams: dict[str, Tensor] = {}
    labels, video_ids, numbers = [], [], []
    for number, sample in enumerate(samples):
        labels.append(sample.label)
        video_ids.append(sample.video_id)
        numbers.append((sample.clip, sample.view))
        for name, values in sample.streams.items():
            if not number:
                streams[name] = _empty_batch(len(samples), *values.shape)
            streams[name].numpy()[number].transpose(0, 2, 3, 1)[...] = values.transpose(0, 2, 3, 1)
    clips, views = torch.tensor(numbers).unbind(1)
    return Batch(streams, torch.tensor(labels), tuple(video_ids), clips, views)


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


def usable_cores() -> int:
    """The cores that this process may use, at least 1: its share of those that its affinity and its container's limit allow.

    The processes that torchrun starts on a machine (LOCAL_WORLD_SIZE) divide them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CORES_OF_CONTAINER.read_text(encoding="ascii").split()
        cores = min(cores, round(int(quota) / int(period)))
    except (OSError, ValueError):  # "max", or not Linux
        pass
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(cores // max(int(beside) if beside.isdecimal() else 1, 1), 1)


def _number_of(workers: int) -> int:
    return workers if workers >= 0 else min(usable_cores(), _MOST_WORKERS)


def training_batches(
    dataset: ClipDataset | JoinedClips, batches: EpochBatches, *, workers: int, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Endless training batches.

    Args:
        dataset: the clips.
        batches: which clips each batch has.
        workers: number of loading processes; 0: this process loads; negative: as many as it has cores (`usable_cores`), at most 16.
        pin_memory: page-locked memory, for asynchronous copies to a GPU.

    Raises:
        VideoKDError: a clip cannot be loaded.
        LoadingEnded: a loading process ended, for example out of memory, or gives nothing for half an hour.
    """
    return _loaded(dataset, workers=_number_of(workers), pin_memory=pin_memory, batch_sampler=batches)


def evaluation_batches(
    dataset: ClipDataset,
    *,
    batch_size: int,
    workers: int,
    device: torch.device | None = None,
    turn: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Batches of every clip once, in order; none of no clips.

    Args:
        dataset: the clips.
        batch_size: clips of a batch; the last one may have fewer.
        workers: as for `training_batches`.
        device: where they go next: for CUDA they come in page-locked memory, for asynchronous copies.
        turn: (r, n): only the r-th batch and every n-th from there, those of one of n processes that take turns.

    Raises:
        VideoKDError: a clip cannot be loaded.
        LoadingEnded: as for `training_batches`.
    """
    count = len(dataset)
    chunks = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    chunks = chunks[turn[0] :: turn[1]]
    pinned = device is not None and device.type == "cuda"
    return _loaded(dataset, workers=min(_number_of(workers), len(chunks)), pin_memory=pinned, batch_sampler=chunks)


def stored_view_batches(clips: JoinedClips, numbers: Sequence[int], *, workers: int) -> Iterator[Batch]:
    """All stored views of one clip after the other: a batch has the V views of one clip, in order.

    Args:
        clips: with stored views.
        numbers: of the clips to give.
        workers: as for `training_batches`.

    Raises:
        VideoKDError: a clip cannot be loaded.
        LoadingEnded: as for `training_batches`.
    """
    views = range(clips.parts[0].stored_views)
    chunks = [[(number, view) for view in views] for number in numbers]
    return _loaded(
        _StoredViews(clips), workers=min(_number_of(workers), len(chunks)), pin_memory=False, batch_sampler=chunks
    )


@dataclass(frozen=True)
class _StoredViews(Dataset[Sample]):
    clips: JoinedClips

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        return self.clips.stored_view(*item)

    def shared(self) -> _StoredViews:
        return _StoredViews(self.clips.shared())


def _loaded(
    dataset: ClipDataset | JoinedClips | _StoredViews, *, workers: int, pin_memory: bool, batch_sampler: Any
) -> Generator[Batch, None, None]:
    method = start_method() if workers else None
    loader: DataLoader[Any] = DataLoader(
        dataset.shared() if method == "forkserver" else dataset,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        timeout=_LOOK_SECONDS if workers else 0,
        prefetch_factor=(4 if workers <= _FEW_WORKERS else 2) if workers else None,
        multiprocessing_context=method,
        worker_init_fn=begin,
        # Its own generator: otherwise the loader would change the global random state, and a resumed run would differ
        generator=torch.Generator().manual_seed(0),
    )
    try:
        with starting():
            batches = iter(loader)
        yield from _waited_for(batches)
    except VideoKDError as error:
        # A worker's error arrives as the text of its traceback; the last line is the message
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from error
    except (RuntimeError, OSError, EOFError) as error:
        reason = _reason_of_a_lost_worker(error) if workers else None
        if reason is None:
            raise
        raise LoadingEnded(
            f"a process that loads clips ended ({reason}): it was killed, or out of memory or shared memory ({_shared_memory()}). {_WITHOUT}, or "
            "give a container more (`--shm-size 8g`)."
        ) from error


def _waited_for(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches, as long as one comes now and then: the loader gives up every few seconds, and can be asked again."""
    looks = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            looks += 1
            if looks < _MOST_LOOKS:
                continue
            raise LoadingEnded(
                f"processes that load clips have given none for {_LOOK_SECONDS * _MOST_LOOKS / 60:.0f} minutes: they hang, or the disk with the clips "
                f"does not answer. Look at that disk, then run the same command again. {_WITHOUT} where it is sound."
            ) from error
        looks = 0
        yield batch


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
