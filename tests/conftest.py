"""Fixtures that several folders share: generated clips of every kind, and real clips where they are at hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.small_datasets import dataset  # noqa: F401 (fixture)
from tests.small_runs import clips, exported, prepared, student_run, teacher_runs  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("VIDEOKD_REQUIRE_GPU") == "1":
        return
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device (VIDEOKD_REQUIRE_GPU=1 makes this a failure)"))


def pytest_configure() -> None:
    """Signals do what they do at a terminal: `nohup` and jobs in the background ignore some, and children inherit that."""
    for name, action in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


@pytest.fixture(autouse=True)
def usual_scheduling() -> Iterator[None]:
    """SVT-AV1, where root runs it, gives the thread that calls it real-time priority: from then on other processes starve."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder of real clips and reference arrays beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real clips at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def load_measurement() -> Callable[[str], ModuleType]:
    """Imports a program of measurements/, which import each other by their file names."""

    def load(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / "measurements"))
            return import_module(name)

    return load


def moving_texture(
    num_frames: int, height: int, width: int, *, seed: int = 0, step: tuple[int, int] = (3, 1)
) -> np.ndarray:
    """uint8 [T, H, W, 3]: a smooth texture that moves by `step` (x, y) pixels a frame, under a slowly turning light."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 32, width // 8 + 32, 3)).astype(np.float32)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    for axis in (0, 1):
        texture = (texture + np.roll(texture, 2, axis) + np.roll(texture, 4, axis) + np.roll(texture, 6, axis)) / 4
    frames = []
    for t in range(num_frames):
        x, y = (128 - t * step[0]) % 128, (128 - t * step[1]) % 128
        frames.append(texture[y : y + height, x : x + width] * (0.9 + 0.1 * np.sin(t / 5)))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


MakeClip = Callable[..., Path]


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Encodes a moving texture with FFmpeg's own encoders; each distinct clip is made once a session."""
    import av

    folder = tmp_path_factory.mktemp("clips")

    def make(
        codec: str = "mpeg4",
        *,
        container: str = "mp4",
        num_frames: int = 30,
        size: tuple[int, int] = (128, 96),
        gop: int = 12,
        options: tuple[tuple[str, str], ...] = (),
        b_frames: int = 0,
        seed: int = 0,
        pixel_format: str = "yuv420p",
        step: tuple[int, int] = (3, 1),
    ) -> Path:
        name = "-".join(
            map(str, (codec, num_frames, *size, gop, b_frames, seed, pixel_format, *step, *sum(options, ())))
        )
        path = folder / f"{name.replace('/', '_').replace(':', '_')}.{container}"
        if path.exists():
            return path
        width, height = size
        with av.open(str(path), "w") as output:
            stream = output.add_stream(codec, rate=25, options=dict(options))
            stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = b_frames
            stream.codec_context.thread_count = 1
            if codec.startswith(("mpeg", "h263", "flv", "wmv", "msmpeg")):
                stream.bit_rate = 2_000_000
            for picture in moving_texture(num_frames, height, width, seed=seed, step=step):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, to fill up."""
    import subprocess

    folder = tmp_path / "tiny-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False)
