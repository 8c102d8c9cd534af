"""What the tests of live streams share: a stand-in for students, senders on this machine, and a relay that loses packets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videokd.live.events import EventSettings
from videokd.live.feed import WatchSettings
from videokd.live.sources import sources_of
from videokd.live.watching import SourceChange, Watching, WindowLabels
from videokd.prediction.predictor import Answer
from videokd.prediction.wanted import Wanted

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
#: A loaded machine is slow, so tests wait for what they expect, and fail only after this.
PATIENCE = 120.0
INPUTS = {"iframe": ("iframe", 32), "motion": ("motion", 32), "residual": ("residual", 32)}
FAST = WatchSettings(window=0.8, stride=0.4, num_segments=4, timeout=5.0, reconnect=PATIENCE)
Result = WindowLabels | SourceChange


class StandIn:
    """Answers like students, from the mean brightness of I-frames; remembers how large its batches were."""

    def __init__(self, inputs: Mapping[str, tuple[str, int]] = INPUTS, *, slow_seconds: float = 0.0) -> None:
        self.wanted = Wanted(("dark", "bright"), inputs, 4, encoding={"encoding": {"gop": 12}})
        self.batches: list[int] = []
        self._slow = slow_seconds

    def __call__(self, streams: Mapping[str, Any], *, names: Sequence[str]) -> Answer:
        time.sleep(self._slow)
        values = next(iter(streams.values()))
        assert values.dtype == np.uint8
        assert values.shape[:2] == (len(names), FAST.num_segments)
        self.batches.append(len(values))
        bright = values.reshape(len(values), -1).mean(axis=1, dtype=np.float32) / 255
        return Answer(np.stack([1 - bright, bright], axis=1).astype(np.float32))


def watched(
    *given: str,
    students: StandIn | None = None,
    settings: WatchSettings = FAST,
    events: EventSettings | None = None,
    enough: Callable[[list[Result]], bool] = lambda results: False,
    messages: list[str] | None = None,
) -> list[Result]:
    """The results of watching until the sources end, or there is enough; afterwards no thread of it is left."""
    results: list[Result] = []
    told: list[str] = [] if messages is None else messages
    until = time.monotonic() + PATIENCE
    watching = Watching(
        sources_of(given),
        students or StandIn(),
        settings=settings,
        events=events or EventSettings(),
        top=2,
        tell=told.append,
    )
    for result in watching.results(lambda: enough(results) or time.monotonic() > until):
        results.append(result)
    assert time.monotonic() < until, f"{results} {told}"
    left = [thread for thread in threading.enumerate() if thread.name.startswith("videokd ")]
    while left and time.monotonic() < until:  # those that wait for a lost sender end with FFmpeg's timeout
        left = [thread for thread in left if thread.is_alive()]
        time.sleep(0.05)
    assert not left
    return results


def windows_of(results: Sequence[Result], source: str | None = None) -> list[WindowLabels]:
    return [r for r in results if isinstance(r, WindowLabels) and (source is None or r.source == source)]


def at_least(count: int) -> Callable[[list[Result]], bool]:
    return lambda results: len(windows_of(results)) >= count


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def sending(*command: str, again: bool = False) -> Iterator[None]:
    """While it lasts, ffmpeg sends; if it ends (a listener when its client leaves), it may start again."""
    stopped = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def run() -> None:
        while not stopped.is_set():
            running.append(subprocess.Popen(["ffmpeg", "-v", "error", *command], stderr=subprocess.DEVNULL))
            running[-1].wait()
            if not again:
                return
            stopped.wait(0.3)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        while thread.is_alive():
            if running:
                running[-1].kill()
            thread.join(0.2)


def in_real_time(clip: Path, *output: str) -> tuple[str, ...]:
    """ffmpeg's arguments to send a clip again and again, as fast as it plays, without coding it anew."""
    return ("-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", *output)


@contextmanager
def lossy_relay(to_port: int, *, every: int) -> Iterator[int]:
    """A port of UDP from which all but each `every`-th packet is passed on."""
    stopped = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.1)

        def relay() -> None:
            count = 0
            while not stopped.is_set():
                try:
                    data = receiver.recv(65536)
                except TimeoutError:
                    continue
                count += 1
                if count % every:
                    receiver.sendto(data, ("127.0.0.1", to_port))

        thread = threading.Thread(target=relay)
        thread.start()
        try:
            yield receiver.getsockname()[1]
        finally:
            stopped.set()
            thread.join()
