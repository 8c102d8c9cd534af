"""Finds cuts to another scene while a video is decoded.

An encoder codes the first frame of a new scene as an I-frame, or as a P-frame of intra blocks. But there are also periodic I-frames,
flashes and jerks of the camera. So such a frame is compared with the one before it, and that difference with those around it: at a cut
it stands out, in fast motion it does not. Only frames that may be cuts are looked at, since the others cost decoding speed.
"""

from __future__ import annotations

from videokd.codec.cursor import Decoded
from videokd.description.sketches import Sketch, brightness_change, likeness, sketch_of

#: Measured by measurements/cuts.py; docs/describe.md
_LEAST_INTRA = 0.3  # share of the frame's blocks
_LEAST_DIFFERENCE = 0.25  # 1 − correlation of the two sketches
_LARGE_DIFFERENCE = 0.5
_LEAST_CHANGE = 8.0  # of luma, of 256: below, what differs is noise
_STANDS_OUT = 3.0  # times the differences around it
_AROUND = 2  # frames on each side


class _Seen:
    """A decoded frame; its sketch is drawn when it is first needed."""

    def __init__(self, decoded: Decoded, seconds: float) -> None:
        self._decoded = decoded
        self._sketch: Sketch | None = None
        self.seconds = seconds
        self.suspicious = False

    @property
    def sketch(self) -> Sketch:
        if self._sketch is None:
            self._sketch = sketch_of(self._decoded)
        return self._sketch


class CutFinder:
    """Takes the I- and P-frames of a video in order; `seconds` are the times of the cuts so far."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._recent: list[_Seen] = []

    def add(self, decoded: Decoded, seconds: float, intra: float) -> None:
        """Takes the next frame.

        Args:
            decoded: the frame.
            seconds: when it is shown.
            intra: share of its blocks that are intra, 0 to 1.
        """
        seen = _Seen(decoded, seconds)
        if self._recent and intra >= _LEAST_INTRA:
            before = self._recent[-1].sketch
            seen.suspicious = (
                1 - likeness(before, seen.sketch) > _LEAST_DIFFERENCE
                and brightness_change(before, seen.sketch) > _LEAST_CHANGE
            )
        self._recent = [*self._recent[-2 * _AROUND - 1 :], seen]
        self._decide(len(self._recent) - 1 - _AROUND)

    def end(self) -> None:
        """Takes the end of the video: decides about its last frames."""
        for at in range(max(len(self._recent) - _AROUND, 0), len(self._recent)):
            self._decide(at)
        self._recent = []

    def latest_sketch(self) -> Sketch:
        """That of the frame that was added last."""
        return self._recent[-1].sketch

    def _decide(self, at: int) -> None:
        """Whether a frame begins a scene, by its place among the recent ones."""
        if at < 1 or not self._recent[at].suspicious:
            return
        difference = self._difference(at)
        last = min(at + _AROUND, len(self._recent) - 1)
        sides = [
            max(map(self._difference, places))
            for places in (range(max(at - _AROUND, 1), at), range(at + 1, last + 1))
            if places
        ]
        # A scene that begins or ends in motion stands out from one side
        around = (min if difference > _LARGE_DIFFERENCE else max)(sides, default=0.0)
        if difference > _STANDS_OUT * around:
            self.seconds.append(self._recent[at].seconds)

    def _difference(self, place: int) -> float:
        return 1 - likeness(self._recent[place - 1].sketch, self._recent[place].sketch)
