"""Draws each stream as a small image: motion as colours, the valid mask as a tint, the I-frame warped by the motion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

#: uint8 [h, w, 3], RGB.
Image = npt.NDArray[np.uint8]

#: The tint of pixels without valid motion, and the stripes over them in the motion's panel.
INVALID, STRIPE = (222, 84, 22), (255, 255, 255)
#: A larger panel is shrunk by a whole factor, to at most this width and height.
MOST_PIXELS = 640
_LUMA = np.array([0.299, 0.587, 0.114])  # BT.601
_ROUND_LENGTHS = (2, 4, 6, 8, 12, 16, 20, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class DrawnStreams(Protocol):
    """What is drawn of `videokd.types.Streams`, which draw themselves in notebooks, and so stand above this folder."""

    @property
    def gop(self) -> int:
        """Number of the GOP."""

    @property
    def position(self) -> int:
        """In the GOP."""

    @property
    def iframe(self) -> Image | None:
        """uint8 [H, W, 3], RGB."""

    @property
    def frame(self) -> Image | None:
        """uint8 [H, W, 3], RGB."""

    @property
    def motion(self) -> npt.NDArray[np.int16] | None:
        """int16 [H, W, 2], (x, y) in pixels."""

    @property
    def residual(self) -> npt.NDArray[np.int16] | None:
        """int16 [H, W, 3], RGB."""

    @property
    def valid(self) -> npt.NDArray[np.bool_] | None:
        """bool [H, W]."""


def warp(iframe: Image, motion: npt.NDArray[np.int16]) -> Image:
    """The I-frame with its content moved: pixel p gets the I-frame's pixel p − motion(p).

    With accumulated motion and residual, warp(iframe, motion) + residual is the frame (Wu et al. 2018, section 3.1).

    Args:
        iframe: uint8 [H, W, 3].
        motion: int16 [H, W, 2], (x, y) in pixels, accumulated; p − motion(p) lies inside the picture.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: the shapes do not fit, or a source lies outside the picture.

    >>> row = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    >>> right = np.zeros((1, 4, 2), np.int16)
    >>> right[0, 1:, 0] = 1
    >>> warp(row, right)[0, :, 0].tolist()
    [0, 0, 1, 2]
    """
    height, width = iframe.shape[:2]
    if motion.shape != (height, width, 2):
        raise ValueError(f"motion is {list(motion.shape)} (accepted: {[height, width, 2]}, as the I-frame)")
    rows, columns = np.ogrid[:height, :width]
    x, y = columns - motion[..., 0], rows - motion[..., 1]
    if x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height:
        raise ValueError(
            "motion points outside the picture (accepted: every source inside it, as the codec's streams have)"
        )
    moved: Image = iframe[y, x]
    return moved


def flow_colours(motion: npt.NDArray[Any], *, max_pixels: float) -> Image:
    """Motion as colours: the hue is its direction (red right, yellow-green down), the brightness the square root of its length.

    With the root, small motion can be seen beside large motion. The wheel in the legend of `streams_picture` has the same colours.

    Args:
        motion: [H, W, 2], (x, y) in pixels, any integer or float dtype; no motion is black.
        max_pixels: the length, > 0, of full brightness; longer vectors have the same.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ValueError: max_pixels is not positive.

    >>> flow_colours(np.array([[[4, 0], [0, 0], [-2, 0]]]), max_pixels=4)[0].tolist()
    [[255, 0, 0], [0, 0, 0], [0, 180, 180]]
    """
    from matplotlib.colors import hsv_to_rgb

    if not max_pixels > 0:
        raise ValueError(f"max_pixels is {max_pixels} (accepted: a positive length)")
    x, y = motion[..., 0].astype(np.float64), motion[..., 1].astype(np.float64)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1
    value = np.sqrt(np.clip(np.hypot(x, y) / max_pixels, 0, 1))
    return np.round(255 * hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], axis=-1))).astype(np.uint8)


def full_colour_pixels(motions: Iterable[npt.NDArray[np.int16]]) -> float:
    """A round length that 98 % of the moving pixels do not exceed, but at most 32, or a tenth of the longer side if that is more.

    Errors add up along a chain, to lengths of half a picture in some blocks; if those had full brightness, all else would be black.

    Args:
        motions: int16 [H, W, 2] each; large ones are sampled.

    Returns:
        Pixels, for `flow_colours`.

    >>> full_colour_pixels([np.full((8, 8, 2), 3, np.int16)])
    6
    """
    lengths = []
    most = 32.0
    for motion in motions:
        most = max(most, max(motion.shape[:2]) / 10)
        step = max(max(motion.shape[:2]) // 256, 1)
        sampled = motion[::step, ::step].astype(np.float32)
        length = np.hypot(sampled[..., 0], sampled[..., 1])
        lengths.append(length[length > 0])
    moving = np.concatenate(lengths or [np.empty(0, np.float32)])
    longest = min(float(np.percentile(moving, 98)), most) if moving.size else 0.0
    return next((length for length in _ROUND_LENGTHS if length >= longest), float(np.ceil(longest)))


def panels(sample: DrawnStreams, *, max_pixels: float, names: Iterable[str] | None = None) -> dict[str, Image]:
    """The panels of one sample, shrunk to at most `MOST_PIXELS` in width and height.

    Args:
        sample: with at least one stream.
        max_pixels: the length of motion at full brightness.
        names: which panels; None: all for which the sample has streams.

    Returns:
        {name: uint8 [h, w, 3], RGB}: iframe; motion, in colours over the dimmed I-frame, striped where it is not valid; valid, the
        pale I-frame, tinted where motion is not valid; warped, the I-frame moved by the motion; residual, mid-grey where it is
        zero; frame.
    """
    iframe, motion, residual = sample.iframe, sample.motion, sample.residual
    shown: dict[str, Image] = {}
    for name in names or ("iframe", "motion", "valid", "warped", "residual", "frame"):
        if name == "motion" and motion is not None:
            shown[name] = _motion_panel(sample, motion, max_pixels)
        elif name == "valid" and sample.valid is not None:
            shown[name] = _valid_panel(sample, sample.valid)
        elif name == "warped" and iframe is not None and motion is not None:
            shown[name] = shrunk(warp(iframe, motion))
        elif name == "residual" and residual is not None:
            shown[name] = shrunk(np.clip(residual + 128, 0, 255).astype(np.uint8))
        elif name in ("iframe", "frame") and (picture := getattr(sample, name)) is not None:
            shown[name] = shrunk(picture)
    return shown


def shrunk(image: Image) -> Image:
    """Shrinks an image to at most `MOST_PIXELS` in width and height, by the mean of square blocks of pixels.

    Args:
        image: uint8 [H, W, 3], RGB.

    Returns:
        uint8 [h, w, 3], RGB; the same image if it is small enough.
    """
    step = _shrink_factor(image.shape)
    if step == 1:
        return image
    height, width = (max(side // step, 1) for side in image.shape[:2])
    # A side shorter than a block gives one pixel
    blocks = image[: height * step, : width * step]
    rows, columns = min(step, blocks.shape[0]), min(step, blocks.shape[1])
    means = blocks.reshape(height, rows, width, columns, 3).mean(axis=(1, 3))
    return np.round(means).astype(np.uint8)


def stripes(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Diagonal stripes, one pixel in five, inside a region.

    Args:
        where: bool [h, w], the region.

    Returns:
        bool [h, w], True on the stripes.
    """
    rows, columns = np.ogrid[: where.shape[0], : where.shape[1]]
    inside: npt.NDArray[np.bool_] = where & ((rows + columns) % 5 < 1)
    return inside


def _shrink_factor(shape: tuple[int, ...]) -> int:
    return -(-max(shape[:2]) // MOST_PIXELS)


def _sampled(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every n-th pixel, with the size that `shrunk` gives: motion and masks must not be averaged."""
    step = _shrink_factor(values.shape)
    height, width = (max(side // step, 1) for side in values.shape[:2])
    return values[step // 2 % values.shape[0] :: step, step // 2 % values.shape[1] :: step][:height, :width]


def _luma(sample: DrawnStreams, shape: tuple[int, ...], *, otherwise: float) -> npt.NDArray[np.float64]:
    """float64 [h, w, 1], 0 to 255: the I-frame's luma, or one grey if there is no I-frame."""
    if sample.iframe is None:
        return np.full((*shape[:2], 1), otherwise)
    return (shrunk(sample.iframe) @ _LUMA)[..., None]


def _motion_panel(sample: DrawnStreams, motion: npt.NDArray[np.int16], max_pixels: float) -> Image:
    motion = _sampled(motion)
    colours = flow_colours(motion, max_pixels=max_pixels)
    strength = colours.max(axis=2, keepdims=True) / 255
    blended = (1 - strength) * 0.45 * _luma(sample, motion.shape, otherwise=90) + colours
    if sample.valid is not None:
        striped = stripes(~_sampled(sample.valid))[..., None]
        blended = np.where(striped, 0.4 * blended + 0.6 * np.array(STRIPE), blended)
    return np.clip(blended, 0, 255).astype(np.uint8)


def _valid_panel(sample: DrawnStreams, valid: npt.NDArray[np.bool_]) -> Image:
    valid = _sampled(valid)[..., None]
    luma = _luma(sample, valid.shape, otherwise=128)
    return np.where(valid, 150 + 0.4 * luma, 0.3 * luma + 0.7 * np.array(INVALID)).astype(np.uint8)
