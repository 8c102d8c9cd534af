"""Films of streams: what moves in them, what stays, and files that play everywhere."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import videokd
from videokd.drawing.film import Film, save_film
from videokd.types import Streams

HEIGHT, WIDTH = 48, 64


def made_up_streams(seed: int = 0) -> Streams:
    rng = np.random.default_rng(seed)
    iframe, frame = rng.integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    motion = np.zeros((HEIGHT, WIDTH, 2), np.int16)
    motion[16:, 16:] = (7, -5)
    return Streams(2, 5, iframe, frame, motion, frame.astype(np.int16) - iframe, motion[..., 0] > 0)


def plain_pictures(count: int = 5) -> list[np.ndarray]:
    pictures = np.zeros((count, 66, 82, 3), np.uint8)
    for number in range(count):
        pictures[number, :, :, 0] = 40 * number
        pictures[number, 20:40, 10 * number : 10 * number + 10] = (250, 250, 250)
    return list(pictures)


def test_a_picture_depends_only_on_its_own_sample() -> None:
    one, other = made_up_streams(), replace(made_up_streams(1), motion=np.zeros((HEIGHT, WIDTH, 2), np.int16))
    film = Film(one, title="clip_$.mp4", max_pixels=8)
    first = film.draw(one, note="GOP 0", progress=0.5)
    second = film.draw(other, note="GOP 1", progress=1.0)
    assert first.dtype == np.uint8
    assert first.shape == second.shape
    assert first.shape[0] % 2 == first.shape[1] % 2 == 0
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(film.draw(one, note="GOP 0", progress=0.5), first)
    again = Film(other, title="clip_$.mp4", max_pixels=8)
    np.testing.assert_array_equal(again.draw(one, note="GOP 0", progress=0.5), first)


def test_the_streams_of_a_sample_are_drawn_side_by_side() -> None:
    full = made_up_streams()
    widths = [
        Film(sample, title="", max_pixels=8).draw(sample, note="", progress=0).shape[1]
        for sample in (full, replace(full, residual=None), replace(full, residual=None, motion=None, valid=None))
    ]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3
    grey = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    drawn = Film(full, title="", max_pixels=8).draw(replace(full, frame=grey), note="", progress=0)
    assert (drawn == 77).all(axis=2).mean() > 0.05
    with pytest.raises(ValueError, match="a sample without any of iframe, motion, residual, frame"):
        Film(Streams(0, 0), title="", max_pixels=8)


def test_progress_and_note_are_drawn() -> None:
    sample = made_up_streams()
    film = Film(sample, title="", max_pixels=8)
    empty, half, full = (film.draw(sample, note="", progress=share).astype(int) for share in (0, 0.5, 1))
    changed = [np.abs(drawn - empty).any(axis=2).sum() for drawn in (half, full)]
    assert changed[0] > 100
    assert changed[1] == pytest.approx(2 * changed[0], rel=0.02)
    assert not np.array_equal(film.draw(sample, note="GOP 3", progress=0), empty)


def test_an_mp4_that_plays_everywhere(tmp_path: Path) -> None:
    pictures = plain_pictures()
    path = save_film(pictures, tmp_path / "new" / "film.mp4", pictures_per_second=12.5)
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 12.5)
        assert (stream.width, stream.height) == (82, 66)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == len(pictures)
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.astype(int) - picture).mean() < 6


def test_a_gif(tmp_path: Path) -> None:
    pictures = plain_pictures()
    path = save_film(pictures, tmp_path / "film.GIF", pictures_per_second=10)
    with Image.open(path) as film:
        assert (film.format, film.n_frames, film.size) == ("GIF", 5, (82, 66))
        assert film.info["loop"] == 0
        for number, picture in enumerate(pictures):
            film.seek(number)
            assert film.info["duration"] == 100
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - picture).mean() < 6


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_pictures_are_taken_one_at_a_time(name: str, tmp_path: Path) -> None:
    """The trap: a film kept in memory whole is gigabytes of a long GOP."""
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal most
        for number in range(30):
            picture = np.full((64, 80, 3), 8 * number, np.uint8)
            made.append(weakref.ref(picture))
            yield picture
            del picture
            most = max(most, sum(reference() is not None for reference in made))

    save_film(pictures(), tmp_path / name, pictures_per_second=10)
    assert len(made) == 30
    assert most <= 4


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_that_breaks_off_leaves_nothing(name: str, tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield from plain_pictures()
        raise videokd.DecodeError("frame 6 cannot be decoded")

    (tmp_path / name).write_text("an older film")
    with pytest.raises(videokd.DecodeError, match="frame 6"):
        save_film(pictures(), tmp_path / name, pictures_per_second=10)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "an older film")]


def test_what_cannot_be_written(tmp_path: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"film\.avi \(accepted: a name ending in \.mp4 or \.gif\)"):
        save_film(plain_pictures(), tmp_path / "film.avi", pictures_per_second=10)
    with pytest.raises(ValueError, match=r"film\.mp4: no pictures \(accepted: at least one\)"):
        save_film([], tmp_path / "film.mp4", pictures_per_second=10)
    noise = np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), dtype=np.uint8)
    for name in ("film.mp4", "film.gif"):
        with pytest.raises(videokd.DataError, match=f"{name} could not be written"):
            save_film(noise, tiny_disk / name, pictures_per_second=10)
        assert list(tiny_disk.iterdir()) == []

    monkeypatch.setattr("videokd.drawing.film._ENCODER", "libnothing")
    with pytest.raises(videokd.DataError, match=r"no libnothing, .* \(accepted: a name ending in \.gif\)"):
        save_film(plain_pictures(), tmp_path / "film.mp4", pictures_per_second=10)
    assert list(tmp_path.glob("*.mp4")) == []
