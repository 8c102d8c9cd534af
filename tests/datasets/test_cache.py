"""A sample from the cache is what decoding gives at the cache's positions, and nothing is decoded twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.conftest import MakeClip
from tests.small_datasets import prepared_clips
from videokd.datasets.batches import training_batches
from videokd.datasets.cache import DecodedCache
from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.datasets.manifest import Manifest
from videokd.datasets.order import EpochBatches
from videokd.datasets.view import Crop, apply_crop, random_crop, sample_positions
from videokd.errors import ConfigError, DataError
from videokd.types import STREAMS

ALL = ("iframe", "motion", "residual")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_clip: MakeClip) -> Manifest:
    return prepared_clips(tmp_path_factory.mktemp("cached"), make_clip, 4)


def dataset(manifest: Manifest, folder: Path, **changes: object) -> ClipDataset:
    cache = DecodedCache(folder, num_positions=6, input_size=32)
    settings = {"streams": ALL, "num_segments": 3, "input_size": 32, "views": "training", "seed": 5, "cache": cache}
    return ClipDataset(manifest, manifest.clips, **(settings | changes))


def kept(folder: Path, stream: str, content: str) -> np.ndarray:
    return np.load(folder / f"{stream}-6x32" / content[:2] / f"{content}.npy")


def test_pictures_are_those_of_the_files_at_evenly_spaced_positions(manifest: Manifest, tmp_path: Path) -> None:
    _ = dataset(manifest, tmp_path)[0]
    clip = manifest.clips[0]
    with videokd.open(manifest.file(clip)) as video:
        lengths = [gop.num_positions for gop in video.gops]
        places = sample_positions(lengths, num_segments=6, first_position=1)
        parts = [video.read(gop=gop, position=position) for gop, position in places]
        whole = Crop(0, 0, video.width, video.height)
        width, height = DecodedCache(tmp_path, 6, 32).size("iframe", video.width, video.height)
    for name in ALL:
        expected = apply_crop([getattr(p, name) for p in parts], whole, spec=STREAMS[name], size=(height, width))
        assert np.array_equal(kept(tmp_path, name, clip.sha256), expected.transpose(0, 2, 3, 1))


def test_a_sample_shows_one_crop_of_one_set_of_moments(manifest: Manifest, tmp_path: Path) -> None:
    data = dataset(manifest, tmp_path, views="quick")
    sample, clip = data[1], manifest.clips[1]
    content = clip.sha256
    for name in ALL:
        pictures = kept(tmp_path, name, content)[[0, 2, 4]]  # the middles of three spans of six
        side = round(64 * 0.875)
        in_the_clip = Crop((clip.width - side) // 2, (64 - side) // 2, side, side)
        crop = in_the_clip.scaled((clip.width, 64), (pictures.shape[2], 37))
        expected = apply_crop(pictures, crop, spec=STREAMS[name], size=32, quantised=True)
        assert np.array_equal(sample.streams[name], expected)


def test_nothing_is_decoded_twice(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(manifest, tmp_path)
    first = [data[3, number] for number in range(4)]
    monkeypatch.setattr("videokd.datasets.dataset.open_video", None)
    for number, before in enumerate(first):
        again = data[3, number]
        assert all(np.array_equal(again.streams[name], before.streams[name]) for name in ALL)
    assert not np.array_equal(data[4, 0].streams["iframe"], first[0].streams["iframe"])
    alone = dataset(manifest, tmp_path, streams=("iframe",))
    assert np.array_equal(alone[3, 0].streams["iframe"], first[0].streams["iframe"])


def test_workers_give_the_same_samples(manifest: Manifest, tmp_path: Path) -> None:
    plain = next(training_batches(dataset(manifest, tmp_path / "a"), EpochBatches(4, 4), workers=0))
    worked = next(training_batches(dataset(manifest, tmp_path / "b"), EpochBatches(4, 4), workers=2))
    assert all(np.array_equal(plain.streams[name], worked.streams[name]) for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_mirroring_quantised_values_is_mirroring_the_values(name: str) -> None:
    spec = STREAMS[name]
    low, high = (0, 256) if name == "iframe" else (-19, 20) if name == "motion" else (-127, 128)
    values = np.random.default_rng(0).integers(low, high, (2, 8, 8, spec.channels))
    values = values.astype(np.uint8 if name == "iframe" else np.int16)
    quantised = apply_crop(values, Crop(0, 0, 8, 8), spec=spec, size=8).transpose(0, 2, 3, 1)
    mirrored = Crop(0, 0, 8, 8, flip=True)
    expected = apply_crop(values, mirrored, spec=spec, size=8)
    assert np.array_equal(apply_crop(quantised, mirrored, spec=spec, size=8, quantised=True), expected)


def test_small_videos_are_not_enlarged() -> None:
    assert DecodedCache(Path(), 1, 64).size("iframe", 340, 256) == (97, 73)
    assert DecodedCache(Path(), 1, 224, {"motion": 64}).size("iframe", 160, 120) == (160, 120)
    assert DecodedCache(Path(), 1, 224, {"motion": 64}).size("motion", 340, 256) == (97, 73)


def test_every_size_shows_the_same_part_of_the_picture(manifest: Manifest, tmp_path: Path) -> None:
    """The crops of one record, taken of the decoded pictures: each size shows them, up to what scaling down loses."""
    sizes = (16, 32, 56)
    for number, clip in enumerate(manifest.clips):
        samples = {}
        for size in sizes:
            cache = DecodedCache(tmp_path, num_positions=6, input_size=size)
            data = dataset(manifest, tmp_path, cache=cache, input_size=size)
            samples[size] = data[7, number].streams["iframe"]
        rng = np.random.default_rng((5, 7, number))
        segments = sample_positions([6], num_segments=3, rng=rng)
        crop = random_crop(clip.width, clip.height, flip=manifest.flip, rng=rng)
        with videokd.open(manifest.file(clip)) as video:
            places = sample_positions([g.num_positions for g in video.gops], num_segments=6, first_position=1)
            pictures = [video.read(gop=places[at][0], position=places[at][1]).iframe for _, at in segments]
        for size in sizes:
            expected = apply_crop(pictures, crop, spec=STREAMS["iframe"], size=size)
            off = np.abs(samples[size].astype(int) - expected).mean()
            elsewhere = apply_crop(pictures, replace(crop, flip=not crop.flip), spec=STREAMS["iframe"], size=size)
            assert 3 * off < np.abs(samples[size].astype(int) - elsewhere).mean()
            assert off == 0 or size < 56  # at 56 pixels, the cached pictures are the decoded ones


def test_sizes_of_a_sample_are_one_crop_of_the_largest_pictures(manifest: Manifest, tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, 6, 32, {"iframe": 48, "motion": 16})
    data = dataset(manifest, tmp_path, cache=cache, streams=("iframe", "iframe@48", "iframe@20", "motion@16"))
    sample, clip = data[2, 1], manifest.clips[1]
    kept_as = {"iframe": "iframe-6x48", "motion": "motion-6x16"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept_as.values())
    rng = np.random.default_rng((5, 2, 1))
    segments = sample_positions([6], num_segments=3, rng=rng)
    crop = random_crop(clip.width, clip.height, flip=manifest.flip, rng=rng)
    for key, stream, size in (("iframe", "iframe", 32), ("iframe@48", "iframe", 48), ("motion@16", "motion", 16)):
        whole = np.load(tmp_path / kept_as[stream] / clip.sha256[:2] / f"{clip.sha256}.npy")
        own = crop.scaled((clip.width, clip.height), (whole.shape[2], whole.shape[1]))
        pictures = whole[[at for _, at in segments]]
        expected = apply_crop(pictures, own, spec=STREAMS[stream], size=size, quantised=True)
        assert np.array_equal(sample.streams[key], expected)


def test_stored_views_follow_from_the_content_alone(manifest: Manifest, tmp_path: Path) -> None:
    data = dataset(manifest, tmp_path, stored_views=3)
    other = replace(data, seed=8, clips=manifest.clips[::-1], streams=("motion",))
    for view in range(3):
        sample, same = data.stored_view(1, view), other.stored_view(2, view)
        assert np.array_equal(sample.streams["motion"], same.streams["motion"])
        assert (sample.clip, same.clip, sample.view) == (1, 2, view)
    seen = [[data[epoch, 1] for epoch in range(turn, turn + 3)] for turn in range(0, 30, 3)]
    assert all(sorted(sample.view for sample in turn) == [0, 1, 2] for turn in seen)
    assert len({tuple(sample.view for sample in turn) for turn in seen}) > 1
    for sample in seen[0]:
        assert np.array_equal(sample.streams["motion"], data.stored_view(1, sample.view).streams["motion"])
    assert len({data.stored_view(1, view).streams["iframe"].tobytes() for view in range(3)}) == 3
    assert replace(data, views="quick")[1].view == -1


def test_stored_views_of_joined_clips_count_through_the_parts(manifest: Manifest, tmp_path: Path) -> None:
    part = dataset(manifest, tmp_path, stored_views=2)
    joined = JoinedClips((part, replace(part, clips=manifest.clips[:2])))
    sample = joined.stored_view(5, 1)
    assert (sample.clip, sample.view) == (5, 1)
    assert np.array_equal(sample.streams["motion"], part.stored_view(1, 1).streams["motion"])
    batch = next(training_batches(joined, EpochBatches((4, 2), 6), workers=0))
    assert sorted(batch.clips.tolist()) == list(range(6))
    for row, (clip, view) in enumerate(zip(batch.clips.tolist(), batch.views.tolist(), strict=True)):
        assert np.array_equal(batch.streams["motion"][row].numpy(), joined.stored_view(clip, view).streams["motion"])


def test_a_clip_whose_content_is_not_known_has_no_stored_views(manifest: Manifest, tmp_path: Path) -> None:
    clips = (replace(manifest.clips[0], sha256="none"),)
    with pytest.raises(DataError, match="a clip's sha256 is 'none'"):
        _ = replace(dataset(manifest, tmp_path, stored_views=2), clips=clips)[0]


def test_what_cannot_be_used_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a cache of 0 positions at 32 pixels .* data\.cache_positions"):
        DecodedCache(tmp_path, 0, 32)
    data = dataset(manifest, tmp_path)
    _ = data[0]
    content = manifest.clips[0].sha256
    (tmp_path / "motion-6x32" / content[:2] / f"{content}.npy").write_bytes(b"torn")
    with pytest.raises(DataError, match=rf"{manifest.clips[0].path}.*{content}\.npy is damaged .* Delete it"):
        _ = data[0]


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((5, 8, 8, 3), np.uint8), np.zeros((6, 8, 8, 2), np.uint8), np.zeros((6, 8, 8, 3)), np.zeros(6, np.uint8)],
)
def test_a_file_of_another_shape_is_damaged(manifest: Manifest, tmp_path: Path, wrong: np.ndarray) -> None:
    cached = replace(dataset(manifest, tmp_path), streams=("iframe",))
    assert cached.cache is not None
    assert cached.cache.num_positions == 6
    cached[0]
    (file,) = (tmp_path / "iframe-6x32").rglob("*.npy")
    np.save(file, wrong)
    with pytest.raises(DataError, match=r"\.npy is damaged .* Delete it"):
        cached[0]
