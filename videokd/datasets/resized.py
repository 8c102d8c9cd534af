"""Resizes pictures by PyTorch where it is in use, and without it elsewhere."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from videokd.kernels.resizing import resize


def resized_pictures(pictures: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resizes pictures, bilinear with antialiasing.

    PyTorch takes half the time, or less, of the compiled loop, so a process that uses it anyway resizes with it; one that predicts without it
    does not load it for this. The two differ by rounding: 1, seldom 2, of 255.

    Args:
        pictures: [P, H, W, C].
        size: height and width of the result in pixels.

    Returns:
        [P, height, width, C].
    """
    if sys.modules.get("torch") is not None:
        return _by_torch(pictures, size)
    planes = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))  # [P, C, H, W]
    target = np.empty((*planes.shape[:2], *size), np.uint8)
    resize(planes.reshape(-1, *planes.shape[2:]), target.reshape(-1, *size))
    return np.ascontiguousarray(target.transpose(0, 2, 3, 1))


def _by_torch(pictures: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    import torch
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(torch.from_numpy(pictures).permute(0, 3, 1, 2), list(size), antialias=True)
    result: npt.NDArray[np.uint8] = resized.permute(0, 2, 3, 1).contiguous().numpy()
    return result
