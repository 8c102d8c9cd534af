"""Processes that load clips: where they come from, what ends them, and what their end does to the one that they load for."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from tests.conftest import MakeClip
from tests.rank_processes import ROOT
from tests.small_datasets import prepared_clips
from videokd.datasets import batches as batches_module
from videokd.datasets.batches import evaluation_batches, training_batches
from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.datasets.loading_processes import start_server
from videokd.datasets.manifest import MANIFEST_NAME, Manifest
from videokd.datasets.order import EpochBatches
from videokd.datasets.shared_clips import SharedClips
from videokd.errors import DataError, DecodeError
from videokd.types import Sample

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds processes in /proc")

SCRIPT = """
import os, sys, time
import torch
from videokd.datasets.batches import training_batches
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.loading_processes import start_server
from videokd.datasets.manifest import read_manifest
from videokd.datasets.order import EpochBatches

print("begun", flush=True)  # no `if __name__ == "__main__"`: a process that imports this would begin too
start_server()
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
manifest = read_manifest(sys.argv[1])
data = ClipDataset(manifest, manifest.clips, ("motion",), num_segments=2, input_size=32, views="training")
batches = training_batches(data, EpochBatches(len(data), 4), workers=2)
next(batches)
print("loaded", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_clip: MakeClip) -> Manifest:
    return prepared_clips(tmp_path_factory.mktemp("loader"), make_clip, 12)


@pytest.fixture
def group() -> Iterator[None]:
    """This process as the only one of a group, with the threads that groups have."""
    start_server()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def dataset(manifest: Manifest) -> ClipDataset:
    return ClipDataset(manifest, manifest.clips, ("motion",), num_segments=2, input_size=32, views="training", seed=5)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if parent_of(int(stat.parent.name)) == pid:
                found.append(int(stat.parent.name))
        except OSError:  # it has ended
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@needs_proc
@pytest.mark.usefixtures("group")
def test_in_a_group_they_are_no_copies_of_a_process_that_has_threads(manifest: Manifest) -> None:
    alone = list(itertools.islice(training_batches(dataset(manifest), EpochBatches(12, 4), workers=0), 4))
    batches = training_batches(JoinedClips((dataset(manifest),)), EpochBatches((12,), 4), workers=2)
    for expected, found in zip(alone, batches, strict=False):
        assert found.video_ids == expected.video_ids
        assert torch.equal(found.streams["motion"], expected.streams["motion"])
    workers = [child.pid or 0 for child in active_children()]
    assert len(workers) == 2
    assert os.getpid() not in map(parent_of, workers)
    for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):  # to the whole group of processes
        for pid in {*workers, *map(parent_of, workers)}:
            os.kill(pid, kind)
    assert len(list(itertools.islice(batches, 20))) == 20
    batches.close()
    assert within(20, lambda: not any(map(is_alive, workers)))


@pytest.mark.usefixtures("group")
def test_errors_in_a_group_are_the_same(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    bad = ClipDataset(Manifest(tmp_path, (), ()), manifest.clips, ("motion",), 2, 32, "quick")
    with pytest.raises(DecodeError, match=r"^\S+\.mp4"):
        next(evaluation_batches(bad, batch_size=4, workers=1))
    batches = training_batches(dataset(manifest), EpochBatches(12, 4), workers=1)
    next(batches)
    for worker in active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(DataError, match=r"a process that loads clips ended .*--data\.workers 0"):
        list(itertools.islice(batches, 40))


@needs_proc
def test_kill_9_of_the_main_process_leaves_none(manifest: Manifest, tmp_path: Path) -> None:
    file = manifest.write(manifest.root / MANIFEST_NAME)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        assert [running.stdout.readline(), running.stdout.readline()] == ["begun\n", "loaded\n"]
        started = children_of(running.pid)
        started += [each for pid in started for each in children_of(pid)]
        assert len(started) >= 3  # the server and two loading processes
        running.kill()
        assert within(30, lambda: not any(map(is_alive, started)))
        assert running.stdout.read() == ""


def test_the_end_of_one_does_not_disturb_what_is_computed_meanwhile(manifest: Manifest) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = training_batches(dataset(manifest), EpochBatches(12, 4), workers=1)
    next(batches)
    (worker,) = active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    assert within(20, lambda: not worker.is_alive())
    assert signal.getsignal(signal.SIGCHLD) == before
    with pytest.raises(DataError, match="a process that loads clips ended"):
        list(itertools.islice(batches, 40))


@dataclass(frozen=True)
class SlowClips(ClipDataset):
    seconds: float = 0.0

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        time.sleep(self.seconds)
        return super().__getitem__(item)


def test_clips_that_never_come_end_the_wait_and_slow_ones_do_not(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(batches_module, "_MOST_LOOKS", 10)
    common = (manifest, manifest.clips, ("motion",), 2, 32, "quick")
    slow = evaluation_batches(SlowClips(*common, seconds=0.4), batch_size=1, workers=1)
    assert len(list(slow)) == 12  # in twice as many looks as one may take
    never = evaluation_batches(SlowClips(*common, seconds=60), batch_size=1, workers=1)
    with pytest.raises(DataError, match=r"given none for .* minutes: they hang, or the disk .*--data\.workers 0"):
        next(never)


def test_shared_clips_are_the_clips(manifest: Manifest) -> None:
    shared = SharedClips(manifest.clips)
    assert tuple(shared) == manifest.clips
    assert (shared[-1], shared[2:9:3]) == (manifest.clips[-1], manifest.clips[2:9:3])
    with pytest.raises(IndexError):
        shared[12]
    assert tuple(SharedClips(())) == ()
    data = dataset(manifest).shared()
    assert len(data) == 12
    assert data.manifest.flip == manifest.flip
