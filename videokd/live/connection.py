"""Opens a source, and gives its packets with the time at which each came."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import av

from videokd.codec.decoder_options import decoder_options
from videokd.codec.index import DEFAULT_LIMITS
from videokd.codec.opening import check_side, demuxed, open_container, reason, set_up, video_track
from videokd.errors import ConfigError, DecodeError
from videokd.live.sources import STANDARD_INPUT, LiveSource, opening_options

# How often a read from a pipe looks whether it should stop
_LOOKS_SECONDS = 0.2


class PipeFile:
    """Standard input or a named pipe as a file object that cannot seek; reading it ends when that is asked for.

    Args:
        source: of the kind stdin.
        stopped: set to end a read that waits.
    """

    def __init__(self, source: LiveSource, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._is_named = source.target != STANDARD_INPUT
        self._begun = False
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it
        self._file = os.open(source.target, os.O_RDONLY | os.O_NONBLOCK) if self._is_named else sys.stdin.fileno()

    def read(self, size: int) -> bytes:
        """The bytes that are there, at most `size`; none at the end."""
        while not self._stopped.is_set():
            if not select.select([self._file], [], [], _LOOKS_SECONDS)[0]:
                continue
            data = os.read(self._file, size)
            if data or self._begun or not self._is_named:
                self._begun = True
                return data
            self._stopped.wait(_LOOKS_SECONDS)  # nobody has opened the other end of the pipe yet
        return b""

    def close(self) -> None:
        """Closes a named pipe; standard input stays open."""
        if self._is_named:
            os.close(self._file)


class Connection:
    """A source that is open: its video track and its decoder.

    Args:
        source: what to open.
        attempt: how often that was tried before.
        seconds: how long to wait for it, and for each packet.
        stopped: set to end it.

    Raises:
        DecodeError: it cannot be opened, or holds no video.
        ConfigError: FFmpeg was built without its protocol.
    """

    def __init__(self, source: LiveSource, *, attempt: int, seconds: float, stopped: threading.Event) -> None:
        self._source, self._pipe, self._seconds = source, None, seconds
        self._container: Any = None
        try:
            if source.kind == "file":
                self._container, self.stream = open_container(source.target)
            else:
                self._open(attempt, stopped)
            context = self.stream.codec_context
            context.options = context.options | decoder_options(context.name, pictures=True)
        except BaseException:
            self.close()
            raise
        self.context = context

    _pipe: PipeFile | None
    stream: Any
    context: Any

    def _open(self, attempt: int, stopped: threading.Event) -> None:
        source, given = self._source, self._source.target
        try:
            if source.kind == "stdin":
                self._pipe = PipeFile(source, stopped)
                self._container = av.open(self._pipe, **opening_options(source, attempt))
            else:
                self._container = av.open(given, timeout=self._seconds, **opening_options(source, attempt))
        except av.error.ProtocolNotFoundError:
            raise ConfigError(
                f"{source.name}: this build of FFmpeg has no {source.scheme} (accepted: what it has). Pipe it through another: "
                "`ffmpeg -i ADDRESS -c copy -f mpegts - | videokd watch -`."
            ) from None
        except (av.FFmpegError, OSError, ValueError) as error:  # not `from`: FFmpeg's error shows the password
            raise DecodeError(f"{source.name} cannot be read: {self._reason(error)}. {_advice(source)}") from None
        self.stream = video_track(self._container, source.name)
        context = self.stream.codec_context
        check_side(source.name, context.width, context.height, DEFAULT_LIMITS)
        set_up(context, DEFAULT_LIMITS)

    @property
    def has_end(self) -> bool:
        """Whether it is a recording: of a known length, or read from a file or a pipe."""
        if self._source.kind in ("file", "stdin"):
            return True
        return self._source.waits and bool(self._container.duration and self._container.duration > 0)

    @property
    def tick(self) -> float:
        """Seconds of a unit of its timestamps; 0 if that is not known."""
        return float(self.stream.time_base or 0)

    @property
    def frame_rate(self) -> float:
        """Pictures a second, as far as that is known; 0 if not."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def packets(self) -> Iterator[tuple[Any, float]]:
        """Yields each packet of the video, and when it came (`time.monotonic`), to the end.

        Raises:
            DecodeError: reading fails, or no packet comes in time.
        """
        came = time.monotonic()
        try:
            for packet in demuxed(self._container):  # all tracks: else PyAV waits for ever where only the sound goes on
                now = time.monotonic()
                if packet.size and packet.stream.index == self.stream.index:
                    came = now
                    yield packet, now
                elif now - came > self._seconds and not self.has_end:
                    raise DecodeError(f"{self._source.name}: only other tracks than video came in {self._seconds:g} s.")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(f"{self._source.name} was lost: {self._reason(error)}.") from None

    def _reason(self, error: Exception) -> str:
        if isinstance(error, av.error.ExitError):  # PyAV ends a call of FFmpeg that takes too long
            return f"nothing came in {self._seconds:g} s"
        return reason(error)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes it."""
        if self._container is not None:
            self._container.close()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _advice(source: LiveSource) -> str:
    if source.kind == "stdin":
        return "Send a stream that can be read as it comes, such as `ffmpeg -i … -c copy -f mpegts - |`."
    return "Check the address, and that the sender runs." if source.kind == "network" else "Check the device."
