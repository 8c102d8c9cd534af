"""Splits the time from a file to its label into stages: reading, decoding, making the streams, the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from videokd.codec import container, indexing, reader

STAGES = ("read", "decode", "streams", "network")


class Stopwatch:
    """Time by stage; what is inside another stage counts for the inner one alone."""

    def __init__(self, clock: Callable[[], float], device: torch.device) -> None:
        self._clock, self._device = clock, device
        self._stages = ["streams"]
        self._since = 0.0
        self.seconds: dict[str, float] = {}
        self.running = True

    def start(self) -> None:
        """Sets all stages to zero."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._since = self._clock()

    def switch(self, stage: str) -> None:
        """Adds the time since the last switch to a stage."""
        now = self._clock()
        self.seconds[stage] += now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the block's time for a stage."""
        if not self.running:
            yield
            return
        self.switch(self._stages[-1])
        self._stages.append(name)
        try:
            yield
        finally:
            if name == "network" and self._device.type == "cuda":
                torch.cuda.synchronize()
            self.switch(self._stages.pop())

    def within(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted for a stage."""

        def timed(*given: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*given, **named)

        return timed

    def packets(self, packets: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The method that yields packets, the wait for each counted as reading."""

        def timed(decoder: Any) -> Iterator[Any]:
            waiting = packets(decoder)
            while True:
                with self.stage("read"):
                    packet = next(waiting, None)
                if packet is None:
                    return
                yield packet

        return timed

    @contextmanager
    def on_videokd(self) -> Iterator[None]:
        """Splits videokd's own reading: opening, indexing, seeking and demuxing; decoding; all the rest is streams."""
        decoder = container.PictureDecoder
        with (
            patch.object(reader, "open_indexed", self.within("read", indexing.open_indexed)),
            patch.object(decoder, "_seek", self.within("read", decoder._seek)),
            patch.object(decoder, "packets", self.packets(decoder.packets)),
            patch.object(decoder, "feed", self.within("decode", decoder.feed)),
        ):
            yield
