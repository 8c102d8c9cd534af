"""How players turn a picture: the display matrix in a file's header, as one of eight orientations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame

from videokd.errors import DecodeError

_MOST_DEGREES_OFF = 1.0  # FFmpeg also takes an angle within one degree for a quarter turn
_SIDE_DATA: Any = SideDataContainer


@dataclass(frozen=True)
class Orientation:
    """One of eight orientations: the picture is transposed first, then mirrored.

    Args:
        transposed: rows become columns.
        mirrored_x: left and right change places.
        mirrored_y: top and bottom change places.
    """

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether pictures are shown as they are coded."""
        return self == Orientation()

    @property
    def is_mirrored(self) -> bool:
        """Whether the picture is mirrored: turning it does not make text readable."""
        return self.transposed ^ self.mirrored_x ^ self.mirrored_y

    @property
    def quarter_turns(self) -> int:
        """Counter-clockwise quarter turns, 0 to 3; a mirrored picture is mirrored left to right before them."""
        if self.transposed:
            return 1 if self.mirrored_y != self.is_mirrored else 3
        return 2 if self.mirrored_y else 0

    def apply(self, plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turns a plane of pixels.

        Args:
            plane: uint8 [H, W], as coded.

        Returns:
            uint8 [H, W] as shown, or [W, H] if transposed; a view.
        """
        plane = plane.T if self.transposed else plane
        return plane[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1]


def orientation_of(frame: VideoFrame) -> Orientation:
    """How a decoded frame is to be shown.

    Args:
        frame: as PyAV gives it, with the side data of its file's header.

    Raises:
        DecodeError: the angle is not a quarter turn.
    """
    # Not frame.side_data: it makes a reference cycle, which keeps the frame's pictures until the next garbage collection
    side_data = _SIDE_DATA(frame).get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation()
    # ISO/IEC 14496-12, 8.3.2: x' = a x + c y, y' = b x + d y, stored as a b u c d v x y w in 16.16
    a, b, _, c, d = np.frombuffer(side_data, np.int32)[:5].tolist()
    width, height = math.hypot(a, c), math.hypot(b, d)
    if not width or not height:
        return Orientation()
    degrees = math.degrees(math.atan2(b / height, a / width))
    if abs(degrees - 90 * round(degrees / 90)) > _MOST_DEGREES_OFF:
        raise DecodeError(
            f"its header turns pictures by {degrees:.0f}° (accepted: quarter turns, mirrored or not). "
            "Turn it with `ffmpeg -i` first, which applies the angle."
        )
    if round(degrees / 90) % 2:
        return Orientation(transposed=True, mirrored_x=c < 0, mirrored_y=b < 0)
    return Orientation(mirrored_x=a < 0, mirrored_y=d < 0)


def turned(frame: VideoFrame, orientation: Orientation) -> VideoFrame:
    """Turns a frame as it is shown.

    Args:
        frame: yuv420p, of even width and height.
        orientation: how it is shown.

    Returns:
        The same frame if it is upright, otherwise a new one.
    """
    if orientation.is_upright:
        return frame
    height, width = frame.height, frame.width
    planes: list[npt.NDArray[np.uint8]] = np.split(
        frame.to_ndarray().reshape(-1), [height * width, height * width * 5 // 4]
    )
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    shown = [orientation.apply(np.reshape(plane, shape)) for plane, shape in zip(planes, shapes, strict=True)]
    packed = np.concatenate([plane.reshape(-1) for plane in shown]).reshape(-1, shown[0].shape[1])
    return VideoFrame.from_ndarray(np.ascontiguousarray(packed), format="yuv420p")
