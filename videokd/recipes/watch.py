"""`videokd watch`: names the action in live streams, window by window."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from videokd.errors import ConfigError
from videokd.live.events import EventSettings, Smoothing
from videokd.live.feed import WatchSettings
from videokd.live.lines import line_of
from videokd.live.sources import sources_of
from videokd.live.watching import Watching
from videokd.messages import give, say
from videokd.prediction.loading import load_predictor
from videokd.recipes.command_line import parse
from videokd.runs.settings import Device, PrecisionName
from videokd.stopping import StopSignal


@dataclass(frozen=True)
class Watch:
    """Names the action in live streams: a line for each window of each source, as soon as it is known.

    Args:
        sources: addresses (rtsp, rtsps, tcp, udp, srt, http, https), files, devices, or - for standard input. TCP and UDP carry MPEG-TS;
            `tcp://:5000?listen=1` waits for a sender, `udp://:5000` receives.
        students: as for `videokd predict`: folder of `videokd export`, its students.onnx, or hf://owner/name.
        window: seconds that a label is about.
        stride: seconds from the start of one window to that of the next.
        num_segments: places looked at in each window; by default 8, or as many as in training where students see their order.
        top: how many labels to print.
        smooth: how many windows of a source to average.
        smoothing: mean of the last windows, or an exponential mean with 2 / (smooth + 1) for the newest.
        on: probability from which a label is on; then lines tell the start and the end of each event. By default there are no events.
        off: probability below which it is off again; by default as `on`.
        min_seconds: how long a label must be on to be an event.
        timeout: seconds without a packet after which a source counts as lost.
        reconnect: seconds to go on trying a source that was lost; 1e9 is for ever.
        exit_threshold: as for `videokd predict`.
        format: of what is printed: JSON lines, or a table to read.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is tf32 on a GPU that has it, fp32 elsewhere.
    """

    sources: tuple[str, ...]
    students: str
    window: float = 2.0
    stride: float = 1.0
    num_segments: int | None = None
    top: int = 3
    smooth: int = 1
    smoothing: Smoothing = "mean"
    on: float | None = None
    off: float | None = None
    min_seconds: float = 0.0
    timeout: float = 10.0
    reconnect: float = 60.0
    exit_threshold: float | None = None
    format: Literal["jsonl", "table"] = "jsonl"
    device: Device = "auto"
    precision: PrecisionName = "auto"


def main(arguments: Sequence[str]) -> None:
    """The verb: prints results until the sources end or it is told to stop."""
    settings = parse(Watch, arguments, verb="watch", positional=("sources",))
    if settings.top < 1:
        raise ConfigError(f"top is {settings.top} (accepted: 1 or more). Correct the setting.")
    events = EventSettings(settings.smooth, settings.smoothing, settings.on, settings.off, settings.min_seconds)
    sources = sources_of(settings.sources)
    given = {} if settings.num_segments is None else {"num_segments": settings.num_segments}
    watched = WatchSettings(
        settings.window, settings.stride, timeout=settings.timeout, reconnect=settings.reconnect, **given
    )
    students = load_predictor(
        settings.students,
        device=settings.device,
        precision=settings.precision,
        exit_threshold=settings.exit_threshold,
    )
    if settings.num_segments is None:
        watched = replace(watched, num_segments=students.wanted.usual_segments)
    with StopSignal() as stop:
        watching = Watching(sources, students, settings=watched, events=events, top=settings.top, tell=_tell)
        for result in watching.results(lambda: stop.requested):
            give([line_of(result, layout=settings.format)])
            sys.stdout.flush()
    if stop.requested:
        raise KeyboardInterrupt


def _tell(message: str) -> None:
    say(f"videokd: {message}")
