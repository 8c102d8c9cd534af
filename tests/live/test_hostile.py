"""What may come through a pipe: damaged, cut off, something else, or nothing. None of it crashes, hangs or leaks."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import MakeClip
from tests.live.loopback import FAST, StandIn, watched, windows_of
from videokd.errors import DecodeError
from videokd.live.watching import WindowLabels

ONE_REFERENCE = (("preset", "veryfast"), ("x264-params", "ref=1:scenecut=0"))


def through_a_pipe(
    pieces: Iterator[bytes] | list[bytes], folder: Path, *, messages: list[str] | None = None
) -> list[WindowLabels]:
    """The windows of what comes through a named pipe, in pieces."""
    pipe = folder / "pipe"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)

    def write() -> None:
        try:
            with open(pipe, "wb", buffering=0) as file:
                for piece in pieces:
                    file.write(piece)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return windows_of(watched(str(pipe), messages=messages))
    finally:
        if thread.is_alive():  # it may wait for a reader that has gone
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def clip(make_clip: MakeClip) -> bytes:
    return make_clip("libx264", container="ts", gop=12, num_frames=100, options=ONE_REFERENCE).read_bytes()


def test_a_whole_clip_in_small_pieces(clip: bytes, tmp_path: Path) -> None:
    pieces = [clip[start : start + 777] for start in range(0, len(clip), 777)]
    assert len(through_a_pipe(pieces, tmp_path)) == 9


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100_000, np.random.default_rng(0).bytes(200_000), b"G" * 188 * 50, b"#EXTM3U\nfile:///etc/passwd\n"],
    ids=["zeros", "noise", "sync bytes only", "playlist"],
)
def test_what_is_no_video_is_refused_in_a_line(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"pipe (cannot be read|has no video track|has no picture)"):
        through_a_pipe([data], tmp_path)


def test_sound_alone_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "sound.ts"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mp2", rate=44100)
        for _ in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            frame.sample_rate = 44100
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(DecodeError, match="has no video track that FFmpeg can decode; it holds audio"):
        through_a_pipe([path.read_bytes()], tmp_path)


@pytest.mark.parametrize("part", [0.1, 0.45, 0.9])
def test_a_stream_that_is_cut_off_gives_what_came(clip: bytes, tmp_path: Path, part: float) -> None:
    windows = through_a_pipe([clip[: int(part * len(clip))]], tmp_path)
    assert 1 <= len(windows) <= 9
    assert windows[-1].end_seconds <= 4 * part + FAST.window


def test_a_stream_that_pauses_goes_on(clip: bytes, tmp_path: Path) -> None:
    half = len(clip) // 2 // 188 * 188
    pause = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield clip[:half]
        pause.wait(1.0)
        yield clip[half:]

    windows = through_a_pipe(pieces(), tmp_path)
    assert [window.start_seconds for window in windows] == pytest.approx([0.4 * number for number in range(9)])


def test_timestamps_that_jump_back_go_on(clip: bytes, tmp_path: Path) -> None:
    windows = through_a_pipe([clip, clip, clip], tmp_path)
    assert [window.start_seconds for window in windows] == pytest.approx([0.4 * number for number in range(29)])


@pytest.mark.parametrize("container", ["ts", "flv", "avi", "mkv", "h264"])
def test_damage_neither_crashes_nor_hangs(make_clip: MakeClip, tmp_path: Path, container: str) -> None:
    path = make_clip("libx264", container=container, gop=12, num_frames=60, options=ONE_REFERENCE)
    original = np.frombuffer(path.read_bytes(), np.uint8)
    given = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        damaged = original.copy()
        places = rng.integers(200, len(damaged), size=rng.integers(1, 60))
        damaged[places] = rng.integers(0, 256, size=len(places))
        data = damaged.tobytes()
        if seed % 2:  # a piece is missing
            start = int(rng.integers(1000, len(data) // 2))
            data = data[:start] + data[start + int(rng.integers(1, 5000)) :]
        try:
            given += len(through_a_pipe([data], tmp_path))
        except DecodeError as error:
            given += "\n" not in str(error)
    assert given


def resident_mebibytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def resident_after(repeats: int, clip: bytes, folder: Path) -> tuple[float, int]:
    windows = through_a_pipe((clip for _ in range(repeats)), folder)
    gc.collect()
    assert windows[-1].dropped_seconds == 0
    return resident_mebibytes(), len(windows)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "minutes", [2, pytest.param(30, marks=pytest.mark.slow)], ids=["2 minutes", "30 minutes of stream"]
)
def test_memory_does_not_grow(clip: bytes, tmp_path: Path, minutes: int) -> None:
    before, _ = resident_after(5, clip, tmp_path)
    after, count = resident_after(minutes * 15, clip, tmp_path)  # a clip has 4 seconds
    assert count == pytest.approx(minutes * 60 / FAST.stride, rel=0.02)
    assert after - before < 24


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_nothing_stays_open(clip: bytes, tmp_path: Path) -> None:
    def now() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    through_a_pipe([clip], tmp_path)
    before = now()
    for data in (clip, clip[:1000], b"\0" * 1000):
        with suppress(DecodeError):
            through_a_pipe([data], tmp_path)
    assert now() == before


def test_an_error_of_the_students_ends_all_threads(clip: bytes, tmp_path: Path) -> None:
    class Broken(StandIn):
        def __call__(self, *given: object, **named: object) -> object:  # type: ignore[override]
            raise RuntimeError("broken")

    path = tmp_path / "a.ts"
    path.write_bytes(clip)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        watched(str(path), students=Broken())
    assert threading.active_count() == before
