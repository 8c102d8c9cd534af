"""Damaged, hostile and exchanged files end in a DecodeError; memory and open files stay flat; threads change nothing."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from videokd.codec.index import Limits
from videokd.codec.indexing import index_video

ROOT = Path(__file__).resolve().parents[2]
ALL = ("iframe", "motion", "residual", "frame")


def fuzz(tmp_path: Path, variants: int, *arguments: str) -> dict:
    command = [sys.executable, str(ROOT / "measurements" / "fuzz_codec.py"), f"--variants={variants}"]
    done = subprocess.run(
        [*command, f"--out={tmp_path}", "--workers=2", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = tmp_path.glob("fuzz_codec-*.json")
    return json.loads(report.read_text())


def test_damaged_files_end_in_a_result_or_an_error(tmp_path: Path) -> None:
    report = fuzz(tmp_path, 300, "--twice=60")
    assert report["failures"] == []
    by_path, lying = report["outcomes"]["path"], report["outcomes"]["index of the intact file, lying"]
    assert sum(by_path.values()) == 360
    assert by_path["read"] > 60
    assert sum(lying.values()) > sum(count for outcome, count in lying.items() if outcome.startswith("read"))


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 10_000, "--seed=7", "--twice=1000")["failures"] == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(side=100), r"pictures of 128×96 pixels \(accepted: up to 100 either way\).*Limits\(side=…\)"),
        (Limits(gop_frames=11), r"a GOP of 12 frames \(accepted: up to 11\).*Limits\(gop_frames=…\)"),
        (Limits(reader_bytes=1000), r"pictures that take 0 MiB to read.*Limits\(reader_bytes=…\)"),
    ],
)
def test_limits(make_clip, limits: Limits, message: str) -> None:
    path = make_clip("mpeg4")
    with pytest.raises(videokd.DecodeError, match=f"{path.name} has {message}"):
        videokd.open(path, limits=limits)
    if limits.side > 100:
        with pytest.raises(videokd.DecodeError, match=message):
            videokd.open(path, index=index_video(path), limits=limits)
    with videokd.open(path, limits=Limits(side=128, gop_frames=12, reader_bytes=10**6)) as video:
        assert video.num_frames == 30


def test_large_pictures_need_higher_limits(make_clip) -> None:
    path = make_clip("libx264", size=(8208, 16), num_frames=2, options=(("x264-params", "scenecut=0"),))
    with pytest.raises(videokd.DecodeError, match=r"8208×16 pixels \(accepted: up to 8192 either way\)"):
        videokd.open(path)
    with videokd.open(path, limits=Limits(side=16_000)) as video:
        assert video.read(gop=0, position=1).motion.shape == (16, 8208, 2)


@pytest.mark.parametrize("wrong", [{"side": 0}, {"gop_frames": -1}, {"reader_bytes": 0}, {"side": 40_000}])
def test_limits_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(videokd.ConfigError, match=r"accepted: all positive, side up to 32767"):
        Limits(**wrong)


def test_a_pipe_is_refused_before_it_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(videokd.DecodeError, match=r"pipe\.mp4 is a pipe or a device"):
        videokd.open(tmp_path / "pipe.mp4")


def test_an_index_of_another_file(make_clip) -> None:
    path, other = make_clip("mpeg4"), make_clip("mpeg4", size=(64, 48))
    index = index_video(other)
    with (
        videokd.open(path, index=dataclasses.replace(index, checksums=(), sums="")) as video,
        pytest.raises(videokd.DecodeError, match=r"frame 0 is 128×96 \(accepted: 64×48, as its index says\)"),
    ):
        video.read(gop=0, position=0)
    with (
        videokd.open(path, index=index) as video,
        pytest.raises(videokd.DecodeError, match="packet 0 is not the one that the index describes"),
    ):
        video.read(gop=0, position=0)
    short = make_clip("mpeg4", num_frames=15)
    longer, shorter = (make_clip("mpeg4", num_frames=count, b_frames=2) for count in (30, 11))
    with (
        videokd.open(longer, index=dataclasses.replace(index_video(shorter), sums="")) as video,
        pytest.raises(videokd.DecodeError, match="more packets than its index knows"),
    ):
        list(video.iterate())
    with (
        videokd.open(short, index=index_video(path)) as video,
        pytest.raises(
            videokd.DecodeError,
            match=r"(frame \d+|packet \d+).* cannot be decoded|packet 1[25] is not the one|ends before packet",
        ),
    ):
        list(video.iterate())


def test_a_file_that_changes_its_size(tmp_path: Path, make_clip) -> None:
    path = tmp_path / "two-sizes.h264"
    parts = [make_clip("libx264", container="h264", size=size).read_bytes() for size in ((128, 96), (64, 48))]
    path.write_bytes(b"".join(parts))
    with (
        videokd.open(path) as video,
        pytest.raises(videokd.DecodeError, match=r"two-sizes\.h264: frame \d+ is \d+×\d+ \(accepted: \d+×\d+"),
    ):
        list(video.iterate())


def test_reading_goes_on_after_an_error(tmp_path: Path, make_clip) -> None:
    whole = make_clip("mpeg4")
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    at, size = packets[15]
    data[at : at + size] = bytes(size)
    path = tmp_path / "hole.mp4"
    path.write_bytes(data)
    index = index_video(whole)
    with videokd.open(path, index=index) as video, videokd.open(whole) as sound:
        with pytest.raises(videokd.DecodeError, match=r"hole\.mp4: (packet|frame) 15"):
            video.read(gop=1, position=6)
        for gop, position in ((0, 7), (2, 3), (1, 1)):
            expected = sound.read(gop=gop, position=position)
            assert np.array_equal(video.read(gop=gop, position=position).residual, expected.residual)


def test_a_closed_reader(make_clip) -> None:
    video = videokd.open(make_clip("mpeg4"))
    video.close()
    video.close()
    with pytest.raises(videokd.ConfigError, match=r"is closed \(accepted: an open reader\)"):
        video.read(gop=0, position=0)


def num_frames_in_memory() -> int:
    return sum(type(thing).__name__ == "VideoFrame" for thing in gc.get_objects())


def test_frames_are_freed_without_the_garbage_collector(make_clip) -> None:
    """The trap: PyAV keeps side data in its frame, a reference cycle, so pictures stay until the next garbage collection."""
    gc.collect()
    gc.disable()
    try:
        with videokd.open(make_clip("mpeg4")) as video:
            counts = [num_frames_in_memory()]  # a decoder that is kept for the next file has one, without pictures
            for _ in video.iterate():
                counts.append(num_frames_in_memory())
        assert max(counts) - counts[0] < 10
    finally:
        gc.enable()


def resident_mib() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the memory from")
def test_memory_and_open_files_stay_flat(make_clip) -> None:
    kinds = ({"codec": "mpeg4"}, {"codec": "mpeg4", "b_frames": 2, "container": "avi"}, {"codec": "libx264"})
    paths = [make_clip(**kind) for kind in kinds]
    indices = [index_video(path) for path in paths]

    def turn(number: int) -> None:
        path, index = paths[number % 3], indices[number % 3] if number % 2 else None
        with videokd.open(path, index=index) as video:
            gop = number % len(video.gops)
            video.read(gop=gop, position=number % video.gops[gop].num_positions, streams=ALL)

    for number in range(500):
        turn(number)
    files, before = len(os.listdir("/proc/self/fd")), resident_mib()
    for number in range(10_000):
        turn(number)
    assert len(os.listdir("/proc/self/fd")) == files
    assert resident_mib() - before < 20


def hashes(path: Path) -> str:
    """One digest of all that a file gives, or of why it is refused."""
    total = hashlib.sha256()
    try:
        with videokd.open(path) as video:
            for streams in video.iterate(streams=ALL):
                for array in (streams.iframe, streams.frame, streams.motion, streams.residual, streams.valid):
                    total.update(array.tobytes())
    except videokd.DecodeError as error:
        total.update(str(error).encode())
    return total.hexdigest()


def hashes_by_threads(paths: list[Path], rounds: int) -> list[tuple[str, str]]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [
            (path.name, digest) for path, digest in zip(paths * rounds, pool.map(hashes, paths * rounds), strict=True)
        ]


def check_determinism(paths: list[Path], rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        results = pool.map(hashes_by_threads, [paths, paths[::-1]], [rounds, rounds])
        found = {pair for result in results for pair in result}
    assert len(found) == len(paths)


def test_one_set_of_hashes_in_every_process_and_thread(make_clip) -> None:
    check_determinism([make_clip("mpeg4", b_frames=2), make_clip("libx264", gop=250)], 5)


def test_one_set_of_hashes_for_real_clips(shared: Path) -> None:
    paths = sorted(path for path in (shared / "clips").iterdir() if path.suffix != ".csv")
    check_determinism(sorted(paths, key=lambda path: path.stat().st_size)[:6], 1)


@pytest.mark.slow
def test_one_set_of_hashes_for_every_real_clip_twenty_times(shared: Path) -> None:
    check_determinism(sorted(path for path in (shared / "clips").iterdir() if path.suffix != ".csv"), 10)


def test_the_codec_loads_where_nothing_can_be_written(make_clip) -> None:
    """The trap: without a folder for its cache, numba refuses to define a cached function."""
    program = f"""
import numba.core.caching

def refuse(*given, **named):
    raise PermissionError("read-only")

numba.core.caching.tempfile.TemporaryFile = refuse
try:
    numba.njit(cache=True)(lambda x: x)
except RuntimeError:
    print("numba refuses")
import videokd
with videokd.open({str(make_clip("mpeg4"))!r}) as video:
    print(video.read(gop=0, position=3).motion.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "numba refuses\n(96, 128, 2)\n", done.stderr


def test_limits_are_plain_data() -> None:
    assert dataclasses.asdict(Limits()) == {
        "side": 8192, "gop_frames": 10_000, "reader_bytes": 1 << 30, "stall_seconds": 30.0,
    }  # fmt: skip
