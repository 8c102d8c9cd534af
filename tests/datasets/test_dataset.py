from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

import videokd
from tests.conftest import MakeClip
from tests.small_datasets import prepared_clips
from videokd.codec.rgb import read_rgb
from videokd.datasets.batches import collate, evaluation_batches, training_batches, usable_cores
from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.datasets.manifest import Manifest
from videokd.datasets.order import EpochBatches
from videokd.datasets.view import apply_crop
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.types import STREAMS, Batch

ALL = ("iframe", "motion", "residual")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_clip: MakeClip) -> Manifest:
    return prepared_clips(tmp_path_factory.mktemp("loader"), make_clip, 12)


def dataset(manifest: Manifest, **changes: object) -> ClipDataset:
    settings = {"streams": ALL, "num_segments": 3, "input_size": 32, "views": "training", "seed": 5} | changes
    return ClipDataset(manifest, manifest.clips, **settings)


def same(one: Batch, other: Batch) -> bool:
    return one.video_ids == other.video_ids and all(torch.equal(one.streams[n], other.streams[n]) for n in one.streams)


def first(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def test_a_sample_is_what_the_codec_gives_through_one_record(manifest: Manifest) -> None:
    data = dataset(manifest)
    for number in (0, 5):
        sample = data[3, number]
        clip = manifest.clips[number]
        with videokd.open(manifest.file(clip)) as video:
            view = data.view(video.index, np.random.default_rng((5, 3, number)))
            parts = [video.read(gop=gop, position=position, streams=ALL) for gop, position in view.segments]
        assert len(view.crops) == 1
        for name in ALL:
            raw = np.stack([getattr(part, name) for part in parts])
            expected = apply_crop(raw, view.crops[0], spec=STREAMS[name], size=32)
            assert np.array_equal(sample.streams[name], expected)
        assert (sample.label, sample.video_id) == (clip.label, clip.video_id)


def test_further_sizes_show_the_same_crop(manifest: Manifest) -> None:
    data = dataset(manifest, streams=("iframe", "motion@64", "iframe@24"))
    sample, clip = data[3, 5], manifest.clips[5]
    with videokd.open(manifest.file(clip)) as video:
        view = data.view(video.index, np.random.default_rng((5, 3, 5)))
        parts = [video.read(gop=gop, position=position) for gop, position in view.segments]
    for key, stream, size in (("iframe", "iframe", 32), ("motion@64", "motion", 64), ("iframe@24", "iframe", 24)):
        raw = np.stack([getattr(part, stream) for part in parts])
        expected = apply_crop(raw, view.crops[0], spec=STREAMS[stream], size=size)
        assert np.array_equal(sample.streams[key], expected)
    assert list(collate([sample]).streams) == ["iframe", "motion@64", "iframe@24"]


def test_samples_depend_on_seed_epoch_and_number_alone(manifest: Manifest) -> None:
    def pixels(data: ClipDataset, item: tuple[int, int]) -> bytes:
        return data[item].streams["iframe"].tobytes()

    data = dataset(manifest)
    assert pixels(data, (2, 4)) == pixels(data, (2, 4))
    others = [pixels(data, (3, 4)), pixels(data, (2, 5)), pixels(dataset(manifest, seed=6), (2, 4))]
    assert pixels(data, (2, 4)) not in others
    # Which streams are read besides changes nothing, as long as the positions they allow are the same
    assert np.array_equal(
        data[1, 1].streams["motion"], dataset(manifest, streams=("motion", "rgb"))[1, 1].streams["motion"]
    )


def test_evaluation_views(manifest: Manifest) -> None:
    quick, full = dataset(manifest, views="quick"), dataset(manifest, views="full")
    assert quick[0].streams["motion"].shape == (3, 2, 32, 32)
    assert full[0].streams["motion"].shape == (30, 2, 32, 32)
    assert np.array_equal(quick[0].streams["motion"], full[0].streams["motion"][12:15])  # the fifth crop is the middle
    unflipped = dataset(replace(manifest, flip=False), views="full")
    assert np.array_equal(unflipped[0].streams["motion"], full[0].streams["motion"][:15])
    assert np.array_equal(quick[7, 0].streams["motion"], quick[0].streams["motion"])


def test_rgb_is_read_at_the_same_moments(manifest: Manifest) -> None:
    data = dataset(manifest, streams=("iframe", "rgb"), views="quick")
    sample, clip = data[2], manifest.clips[2]
    with videokd.open(manifest.file(clip)) as video:
        view = data.view(video.index, np.random.default_rng(0))
        numbers = [video.gops[gop].frame_numbers[position] for gop, position in view.segments]
    expected = apply_crop(read_rgb(manifest.file(clip), numbers), view.crops[0], spec=STREAMS["rgb"], size=32)
    assert np.array_equal(sample.streams["rgb"], expected)
    assert list(dataset(manifest, streams=("rgb",))[0].streams) == ["rgb"]


def test_batches_are_uint8_with_channels_side_by_side(manifest: Manifest) -> None:
    for workers in (0, 1):
        (batch,) = first(training_batches(dataset(manifest), EpochBatches(12, 4), workers=workers), 1)
        for name, values in batch.streams.items():
            assert (values.dtype, tuple(values.shape)) == (torch.uint8, (4, 3, STREAMS[name].channels, 32, 32))
            assert values.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
        assert batch.label.dtype == torch.int64
        moved = batch.to("meta")
        assert {values.dtype for values in moved.streams.values()} == {torch.uint8}


@pytest.mark.gpu
def test_batches_travel_to_the_gpu_as_uint8(manifest: Manifest) -> None:
    (batch,) = first(training_batches(dataset(manifest), EpochBatches(12, 4), workers=1, pin_memory=True), 1)
    assert all(values.is_pinned() for values in batch.streams.values())
    moved = batch.to("cuda")
    assert {values.dtype for values in moved.streams.values()} == {torch.uint8}
    assert all(torch.equal(moved.streams[name].cpu(), batch.streams[name]) for name in ALL)


def test_any_number_of_workers_gives_the_same_batches(manifest: Manifest) -> None:
    runs = [first(training_batches(dataset(manifest), EpochBatches(12, 5, seed=1), workers=n), 5) for n in (0, 1, 2)]
    for batches in zip(*runs, strict=True):
        assert all(same(batches[0], other) for other in batches[1:])
    evaluated = [list(evaluation_batches(dataset(manifest, views="quick"), batch_size=5, workers=n)) for n in (0, 2)]
    assert [len(batch) for batch in evaluated[0]] == [5, 5, 2]
    assert [i for batch in evaluated[0] for i in batch.video_ids] == [clip.video_id for clip in manifest.clips]
    assert all(same(*pair) for pair in zip(*evaluated, strict=True))


def test_of_no_clips_there_are_no_batches(manifest: Manifest) -> None:
    nothing = replace(dataset(manifest, views="quick"), clips=())
    assert list(evaluation_batches(nothing, batch_size=5, workers=2)) == []


@pytest.mark.gpu
def test_batches_for_cuda_are_page_locked(manifest: Manifest) -> None:
    given = {"batch_size": 5, "workers": 1}
    for device, pinned in ((None, False), (torch.device("cpu"), False), (torch.device("cuda"), True)):
        for batch in evaluation_batches(dataset(manifest, views="quick"), **given, device=device):
            tensors = (*batch.streams.values(), batch.label, batch.clips, batch.views)
            assert {each.is_pinned() for each in tensors} == {pinned}


def test_loading_processes_follow_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr("videokd.datasets.batches._CORES_OF_CONTAINER", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert usable_cores() == 12
    for text, cores in (("max 100000", 12), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 12)):
        limit.write_text(f"{text}\n")
        assert usable_cores() == cores
    limit.unlink()
    for processes, cores in (("4", 3), ("100", 1), ("0", 12), ("x", 12)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert usable_cores() == cores


def test_without_a_number_as_many_processes_load_as_there_are_cores(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores in (1, 3):
        monkeypatch.setattr("videokd.datasets.batches.usable_cores", lambda cores=cores: cores)
        before = {child.pid for child in active_children()}  # of other loaders, which may take a moment to end
        batches = training_batches(dataset(manifest), EpochBatches(12, 5), workers=-1)
        next(batches)
        assert len({child.pid for child in active_children()} - before) == cores
        batches.close()


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_share_each_batch(num_ranks: int) -> None:
    whole = list(itertools.islice(EpochBatches(40, 8, seed=2), 12))
    shares = [
        list(itertools.islice(EpochBatches(40, 8, seed=2, rank=rank, num_ranks=num_ranks), 12))
        for rank in range(num_ranks)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(item for part in parts for item in part) == sorted(batch)


def test_every_epoch_has_each_clip_once_in_its_own_order() -> None:
    batches = EpochBatches(12, 4, seed=3)
    epochs = [list(itertools.islice(batches, 3 * epoch, 3 * epoch + 3)) for epoch in range(3)]
    orders = [[number for batch in epoch for _, number in batch] for epoch in epochs]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [{e for batch in epoch for e, _ in batch} for epoch in epochs] == [{0}, {1}, {2}]
    assert EpochBatches(3, 4).steps_per_epoch == 1


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_run_that_resumes_sees_what_it_would_have_seen(manifest: Manifest, step: int) -> None:
    data = dataset(manifest)
    whole = first(training_batches(data, EpochBatches(12, 4, seed=1), workers=0), step + 2)
    rest = first(training_batches(data, EpochBatches(12, 4, seed=1, first_step=step), workers=1), 2)
    assert all(same(*pair) for pair in zip(whole[step:], rest, strict=True))


def test_loading_leaves_the_global_random_state_alone(manifest: Manifest) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first(training_batches(dataset(manifest), EpochBatches(12, 4), workers=1), 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_names_itself_in_one_line(manifest: Manifest, tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad file.mp4").write_bytes(b"no video" * 100)
    clips = (*manifest.clips[:3], replace(manifest.clips[3], path=str(tmp_path / "bad file.mp4")))
    data = replace(dataset(manifest), clips=clips)
    with pytest.raises(DecodeError) as caught:
        first(training_batches(data, EpochBatches(4, 2), workers=workers), 4)
    assert re.fullmatch(r"\S+/bad file.mp4 is a text file .+", str(caught.value))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_without_motion_is_named(manifest: Manifest, make_clip: MakeClip, workers: int) -> None:
    path = make_clip("mpeg4", gop=1, num_frames=3)
    with videokd.open(path) as video:
        clip = replace(manifest.clips[0], path=str(path), index=video.index.to_json())
    data = replace(dataset(manifest), clips=(clip,))
    with pytest.raises(DataError, match=r"^\S+\.mp4: a clip of 3 GOPs has no position from 1 on") as caught:
        first(training_batches(data, EpochBatches(1, 1), workers=workers), 1)
    assert "\n" not in str(caught.value)
    assert len(replace(data, streams=("iframe",))[0].streams["iframe"]) == 3


def test_streams_that_are_none(manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"streams of the dataset: flow \(accepted: one or more of iframe, motion"):
        dataset(manifest, streams=("flow",))


def test_collate_takes_samples_of_any_kind(manifest: Manifest) -> None:
    samples = [dataset(manifest)[0, 0], dataset(manifest)[0, 1]]
    batch = collate(samples)
    for name in ALL:
        assert np.array_equal(batch.streams[name].numpy(), np.stack([sample.streams[name] for sample in samples]))
    assert batch.label.tolist() == [sample.label for sample in samples]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_flat_over_ten_epochs(manifest: Manifest) -> None:
    batches = training_batches(dataset(manifest, streams=(*ALL, "rgb")), EpochBatches(12, 4), workers=0)
    sizes = []
    for _ in range(12):
        for _ in range(3):
            next(batches)
        sizes.append(resident_bytes())
    assert sizes[-1] - sizes[1] < 8 * 2**20, sizes


def proportional_bytes(processes: list[int]) -> int:
    """Memory of processes, pages that several share divided between them."""
    lines = [line for pid in processes for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")
def test_memory_of_workers_stays_flat_over_ten_epochs(manifest: Manifest) -> None:
    clips = tuple(replace(clip, video_id=f"{clip.video_id}-{n}") for n in range(20) for clip in manifest.clips)
    data = replace(dataset(manifest, streams=(*ALL, "rgb")), clips=clips)
    batches = training_batches(data, EpochBatches(len(clips), 8), workers=2)
    sizes = []
    for _ in range(11):
        for _ in range(len(clips) // 8):
            next(batches)
        sizes.append(proportional_bytes([os.getpid(), *(child.pid or 0 for child in active_children())]))
    batches.close()
    # The first epoch loads what is compiled; after it, ten epochs of 240 samples in three processes
    assert max(sizes[1:]) - sizes[1] < 24 * 2**20, sizes


def test_ranks_load_together_what_one_would(manifest: Manifest) -> None:
    whole = first(training_batches(dataset(manifest), EpochBatches(12, 6, seed=4), workers=0), 3)
    shares = [
        first(training_batches(dataset(manifest), EpochBatches(12, 6, seed=4, rank=rank, num_ranks=2), workers=1), 3)
        for rank in (0, 1)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        for rank, part in enumerate(parts):
            own = slice(3 * rank, 3 * rank + 3)
            assert part.video_ids == batch.video_ids[own]
            assert all(torch.equal(part.streams[name], batch.streams[name][own]) for name in ALL)


def test_joined_clips_come_evenly_mixed_and_each_once_an_epoch() -> None:
    batches = EpochBatches((9, 90), 11, seed=3)
    assert batches.steps_per_epoch == 9
    found = list(itertools.islice(batches, 18))
    for epoch in range(2):
        numbers = [number for batch in found[9 * epoch : 9 * epoch + 9] for _, number in batch]
        assert sorted(numbers) == list(range(99))
    assert all(1 <= sum(number < 9 for _, number in batch) <= 2 for batch in found)
    resumed = EpochBatches((9, 90), 11, seed=3, first_step=7)
    assert list(itertools.islice(resumed, 11)) == found[7:]
    assert list(itertools.islice(EpochBatches((99,), 11, seed=3), 9)) == list(
        itertools.islice(EpochBatches(99, 11, seed=3), 9)
    )


@pytest.mark.parametrize(("share", "last"), [(0.5, 4), (0.01, 1), (0.99, 7), (0.7, 6)])
def test_a_share_of_each_batch_is_of_the_last_part(share: float, last: int) -> None:
    batches = EpochBatches((5, 40), 8, seed=3, last_share=share)
    assert batches.steps_per_epoch == 5
    found = list(itertools.islice(batches, 60))
    for part, count, size in ((range(5), 8 - last, 5), (range(5, 45), last, 40)):
        items = [[item for item in batch if item[1] in part] for batch in found]
        assert {len(of_batch) for of_batch in items} == {count}
        endless = [item for of_batch in items for item in sorted(of_batch)]
        for turn in range(count * 60 // size):  # each pass has every clip once, in an order of its own
            assert sorted(number for at, number in endless if at == turn) == list(part)
    resumed = EpochBatches((5, 40), 8, seed=3, last_share=share, first_step=17)
    assert list(itertools.islice(resumed, 20)) == found[17:37]
    shares = [EpochBatches((5, 40), 8, seed=3, last_share=share, rank=rank, num_ranks=2) for rank in (0, 1)]
    for whole, *parts in zip(found, *shares, strict=False):
        assert [whole[:4], whole[4:]] == parts
        if share == 0.5:  # one rank would otherwise have all labels
            assert [sum(item[1] < 5 for item in part) for part in parts] == [2, 2]
    assert list(itertools.islice(EpochBatches((5, 40), 8, seed=4, last_share=share), 60)) != found


def test_joined_clips_are_those_of_their_parts(manifest: Manifest) -> None:
    first_part, second = dataset(manifest), dataset(manifest, seed=9)
    joined = JoinedClips((first_part, second))
    assert len(joined) == 24
    for number, expected in [(3, first_part[2, 3]), (12, second[2, 0]), (23, second[2, 11])]:
        found = joined[2, number]
        assert found.video_id == expected.video_id
        assert all(np.array_equal(found.streams[name], expected.streams[name]) for name in ALL)
    with pytest.raises(IndexError, match="no clip 24"):
        joined[0, 24]


def test_a_loading_process_that_is_killed_ends_the_loading_in_one_line(manifest: Manifest) -> None:
    batches = training_batches(dataset(manifest), EpochBatches(12, 4), workers=1)
    next(batches)
    for worker in active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    message = r"a process that loads clips ended .*--data\.workers 0.*--workers 0.*--shm-size"
    with pytest.raises(DataError, match=message):
        first(batches, 20)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_loading_processes_leave_signals_to_the_main_one(kind: signal.Signals, manifest: Manifest) -> None:
    batches = training_batches(dataset(manifest), EpochBatches(12, 4), workers=2)
    next(batches)
    for worker in active_children():
        os.kill(worker.pid or 0, kind)
    assert len(first(batches, 20)) == 20


def test_batches_carry_the_numbers_of_their_clips(manifest: Manifest) -> None:
    (batch,) = first(training_batches(dataset(manifest), EpochBatches(12, 5), workers=0), 1)
    assert [manifest.clips[number].video_id for number in batch.clips.tolist()] == list(batch.video_ids)
    assert batch.views.tolist() == [-1] * 5
    pieces = batch.split(2)
    assert [number for piece in pieces for number in piece.clips.tolist()] == batch.clips.tolist()
    assert [name for piece in pieces for name in piece.video_ids] == list(batch.video_ids)
    assert (batch.to("meta").clips.shape, batch.to("meta").views.dtype) == ((5,), torch.int64)
    assert Batch(batch.streams, batch.label, batch.video_ids).clips.tolist() == [-1] * 5
