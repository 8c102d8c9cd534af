"""The types of decoded pictures, as letters: the one table of FFmpeg's numbers (AVPictureType)."""

from __future__ import annotations

from typing import Any

# SI and SP, H.264's switching pictures, count as I and P. BI is a B-picture of VC-1 and WMV3 that is coded without prediction
# (SMPTE 421M): like any B-picture it is shown out of order and no picture refers to it, so no GOP starts there.
_LETTERS = {1: "I", 2: "P", 3: "B", 4: "S", 5: "I", 6: "P", 7: "B"}

#: Stands for a type that the decoder does not name.
UNNAMED = "-"


def picture_type(frame: Any) -> str:
    """The type of a decoded frame.

    Args:
        frame: as PyAV gives it.

    Returns:
        I, P, B, S (MPEG-4: a P-picture with global motion compensation), or `UNNAMED`.

    >>> from av.video.frame import PictureType, VideoFrame
    >>> frame = VideoFrame(16, 16, "yuv420p")
    >>> frame.pict_type = PictureType.BI
    >>> picture_type(frame)
    'B'
    """
    return _LETTERS.get(int(frame.pict_type), UNNAMED)
