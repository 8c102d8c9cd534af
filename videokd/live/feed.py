"""Reads one source in a thread of its own: connects, decodes, collects windows, and connects again after a loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from videokd.codec.container import MOTION_CODECS
from videokd.datasets.view import first_position_of
from videokd.errors import ConfigError, DecodeError, NeedsTranscoding, VideoKDError
from videokd.live.clock import StreamClock
from videokd.live.connection import Connection
from videokd.live.crops import Cropper, Crops
from videokd.live.lag import Lag
from videokd.live.mailbox import Mailbox
from videokd.live.positions import LivePosition, PositionReader
from videokd.live.sources import LiveSource
from videokd.live.windows import SlidingWindow, Span
from videokd.prediction.wanted import Wanted
from videokd.transcoding.training_form import TrainingForm

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# How far a source that waits may be behind real time before its windows are dropped, in seconds or strides, whichever is more
_PATIENCE = 1.0
# Without a picture for so long, the stream is another one than the decoder was opened for; a stream without I-frames has begun by then
_LONGEST_BLIND = 20.0


@dataclass(frozen=True)
class Sight:
    """What was read at one position.

    Args:
        crops: what networks see of it.
        arrived: when its packet came, by `time.monotonic`.
        gop: number of its GOP.
        position: in the GOP.
    """

    crops: Crops
    arrived: float
    gop: int
    position: int


@dataclass(frozen=True)
class Seen:
    """A window of a source, ready to be labelled.

    Args:
        span: when it was, and what was read of it.
        dropped_seconds: stream time without a label so far, because work was dropped.
        damaged_seconds: stream time that was left out so far, because packets were lost or damaged.
    """

    span: Span[Sight]
    dropped_seconds: float
    damaged_seconds: float


@dataclass(frozen=True)
class WatchSettings:
    """How sources are watched.

    Args:
        window: seconds that a label is about.
        stride: seconds from one window to the next.
        num_segments: places looked at in each window.
        timeout: seconds to wait for a packet before a source counts as lost.
        reconnect: seconds to go on trying a source that was lost; 1e9 is for ever.

    Raises:
        ConfigError: a number is out of range.
    """

    window: float = 2.0
    stride: float = 1.0
    num_segments: int = 8
    timeout: float = 10.0
    reconnect: float = 60.0

    def __post_init__(self) -> None:
        SlidingWindow[None](window=self.window, stride=self.stride, num_segments=self.num_segments)
        if not 0 < self.timeout <= 3600:
            raise ConfigError(f"timeout is {self.timeout} (accepted: more than 0, up to 3600 seconds). Correct it.")
        if not self.reconnect >= 0:
            raise ConfigError(f"reconnect is {self.reconnect} (accepted: 0 or more seconds). Correct it.")

    @property
    def first_seconds(self) -> float:
        """The first place of a window that is looked at."""
        return self.window / self.num_segments / 2


class Feed:
    """A source and the thread that reads it; windows go to a mailbox.

    `error` is why it ended, if that was an error; it was not if it has a picture and its end.

    Args:
        source: to read.
        number: of the source.
        wanted: what the students want.
        settings: how to watch.
        mailbox: where windows go; once it is stopped, the thread ends.
        tell: called with each message for people.
    """

    def __init__(
        self,
        source: LiveSource,
        number: int,
        wanted: Wanted,
        settings: WatchSettings,
        mailbox: Mailbox[Seen],
        tell: Callable[[str], None],
    ) -> None:
        self.source, self._number, self._settings = source, number, settings
        self._inputs, self._mailbox, self._tell = wanted.inputs, mailbox, tell
        self._trained = TrainingForm.from_settings(wanted.encoding)
        self._first_position = first_position_of(wanted.streams)
        self._chained = self._first_position > 0
        self._windows = self._new_windows()
        self._lag = Lag()
        self._seconds = 0.0  # stream time, over all connections
        self._dropped = self._damaged_before = 0.0
        self._damaged = 0.0
        self._pictures, self._has_given = 0, False
        self.error: VideoKDError | None = None
        self.thread = threading.Thread(target=self._run, name=f"videokd {source.name}", daemon=True)

    def _new_windows(self) -> SlidingWindow[Sight]:
        settings = self._settings
        return SlidingWindow(window=settings.window, stride=settings.stride, num_segments=settings.num_segments)

    def _run(self) -> None:
        try:
            self._keep_watching()
        except VideoKDError as error:
            self.error = error
        except Exception as error:  # the other sources go on; FFmpeg's errors may show the password
            text = f"{type(error).__name__}: {error}".replace(self.source.target, self.source.name)
            self.error = DecodeError(f"{self.source.name}: reading failed: {text:.300}. Watch it again.")
        finally:
            self._mailbox.close(self._number)

    def _keep_watching(self) -> None:
        """Connects, and connects again, until the source ends or is given up."""
        pause, lost_at, attempt = _FIRST_PAUSE, time.monotonic(), 0
        while not self._mailbox.stopped.is_set():
            pictures, error, has_end = self._pictures, None, self.source.kind in ("file", "stdin")
            try:
                with self._connected(attempt) as connection:
                    has_end = connection.has_end
                    self._watch(connection)
            except NeedsTranscoding:
                raise
            except DecodeError as lost:
                named = self.source.name in str(lost)
                error = lost if named else DecodeError(f"{self.source.name}: {lost}")
            if self._mailbox.stopped.is_set():
                return
            if has_end:
                self._end(error)
                return
            now = time.monotonic()
            if self._pictures > pictures:
                pause, lost_at, attempt = _FIRST_PAUSE, now, attempt - 1
            error = error or DecodeError(f"{self.source.name} ended.")
            if now + pause - lost_at > self._settings.reconnect:
                raise DecodeError(f"{error} Given up after {now - lost_at:.0f} s (`--reconnect`).")
            self._tell(f"{error} Trying again in {pause:g} s.")
            self._mailbox.stopped.wait(pause)
            pause, attempt = min(2 * pause, _LONGEST_PAUSE), attempt + 1

    def _connected(self, attempt: int) -> Connection:
        return Connection(self.source, attempt=attempt, seconds=self._settings.timeout, stopped=self._mailbox.stopped)

    def _end(self, error: DecodeError | None) -> None:
        """A recording has ended."""
        self._windows.end(self._seconds)
        self._give(may_wait=True)
        if error is not None and self._has_given:
            self._tell(f"{error} What came before was watched.")
        elif error is not None:
            raise error
        elif not self._pictures:
            raise DecodeError(f"{self.source.name} has no picture that can be decoded (accepted: a stream with video).")
        elif not self._has_given and self._seconds < self._settings.first_seconds:
            raise DecodeError(
                f"{self.source.name} ends at {self._seconds:.2f} s (accepted: more than {self._settings.first_seconds:g} s, where a window of "
                f"{self._settings.window:g} s is first looked at). Pass a shorter `--window`."
            )
        elif not self._has_given:
            raise DecodeError(
                f"{self.source.name} has no position that the students can see: no P-frame, or damage (accepted: GOPs with P-frames). "
                "Check that it plays."
            )

    def _watch(self, connection: Connection) -> None:
        """Reads one connection to its end."""
        context = connection.context
        if self._chained and context.name not in MOTION_CODECS:
            raise NeedsTranscoding(
                f"{self.source.name} is {context.name}, which exports no motion vectors (accepted: {', '.join(MOTION_CODECS[:5])}, …). "
                "Let the camera send H.264, or watch with students that see pictures only."
            )
        gop = self._trained.gop_at(connection.frame_rate) if self._chained else None
        reader = PositionReader(context, chained=self._chained, gop=gop)
        cropper = Cropper(self._inputs)
        start = self._seconds + 1 / (connection.frame_rate or 25) if self._pictures else 0.0
        clock = StreamClock(connection.tick, connection.frame_rate, start)
        self._damaged_before, self._damaged = self._damaged_before + self._damaged, 0.0
        self._lag = Lag()
        self._tell(f"{self.source.name}: {context.name}, {context.width}×{context.height}")
        seen = time.monotonic()
        for packet, arrived in connection.packets():
            if self._mailbox.stopped.is_set():
                return
            seconds = clock.of(packet)
            if not self.source.waits and self._is_skipped(packet, seconds, arrived, reader):
                seen = arrived
                continue
            for place in reader.feed(packet, seconds, arrived):
                seen = arrived
                self._look(place, cropper)
            self._damaged = reader.damaged_seconds
            self._give(may_wait=False)
            if arrived - seen > max(_LONGEST_BLIND, self._settings.timeout) and not connection.has_end:
                raise DecodeError(f"{self.source.name}: no picture could be decoded in {arrived - seen:.0f} s.")
        for place in reader.flush():
            self._look(place, cropper)
        self._give(may_wait=False)

    def _is_skipped(self, packet: object, seconds: float, arrived: float, reader: PositionReader) -> bool:
        """Whether a packet is left out because decoding is behind the stream."""
        was_skipping = self._lag.skips
        skips = self._lag.is_skipped(seconds, arrived, keyframe=bool(getattr(packet, "is_keyframe", False)))
        if skips and not was_skipping:
            reader.skip(seconds)
        if was_skipping and not skips:
            self._dropped += self._lag.skipped_seconds
        return skips

    def _look(self, place: LivePosition, cropper: Cropper) -> None:
        """Reads a position if a window wants it."""
        self._pictures += 1
        self._seconds = max(self._seconds, place.seconds)
        self._lag.behind_start(self._seconds, place.arrived)
        is_wanted = self._windows.wants(self._seconds)
        if is_wanted and place.position >= self._first_position:
            sight = Sight(cropper.crops_at(place), place.arrived, place.gop, place.position)
            self._windows.put(self._seconds, sight)

    def _give(self, *, may_wait: bool) -> None:
        """Hands over the windows that are complete."""
        for span in self._windows.take():
            self._has_given = True
            seen = Seen(span, self._dropped, self._damaged_before + self._damaged)
            if self._mailbox.put(self._number, seen, may_wait=lambda: may_wait or self._may_wait()):
                self._dropped += self._settings.stride

    def _may_wait(self) -> bool:
        if self.source.kind == "file":
            return True
        patience = max(_PATIENCE, self._settings.stride)
        return self.source.waits and self._lag.behind_start(self._seconds, time.monotonic()) < patience
