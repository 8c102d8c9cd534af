"""Temporal shift: 2-D networks that see neighbouring segments, without extra arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from videokd.errors import ConfigError

#: One part of the channels in this many moves forward in time, and another one backward.
PARTS = 8


@dataclass
class SegmentCount:
    """How many segments each clip of the present batch has; set by the network before its backbone runs."""

    value: int = 1


def shift(values: Tensor, *, num_segments: int) -> Tensor:
    """The first eighth of the channels from the next segment, the second eighth from the one before.

    Where a clip has no such segment there are zeros; no clip sees another (Lin et al. 2019, TSM: Temporal Shift Module
    for Efficient Video Understanding, the bidirectional form).

    Args:
        values: [(B S), C, H, W], any memory format, which is kept.
        num_segments: S.

    >>> frames = torch.arange(1.0, 4.0).reshape(3, 1, 1, 1).expand(3, 8, 1, 1)  # S = 3, C = 8
    >>> shift(frames, num_segments=3)[:, :3, 0, 0]
    tensor([[2., 0., 1.],
            [3., 1., 2.],
            [0., 2., 3.]])
    """
    part = values.shape[1] // PARTS
    shifted = torch.zeros_like(values)
    # Views of the same memory, whatever its format: einops would copy where channels come last
    old, new = (torch.unflatten(tensor, 0, (-1, num_segments)) for tensor in (values, shifted))  # [B, S, C, H, W]
    new[:, :-1, :part] = old[:, 1:, :part]
    new[:, 1:, part : 2 * part] = old[:, :-1, part : 2 * part]
    new[:, :, 2 * part :] = old[:, :, 2 * part :]
    return shifted


class ShiftedConv(nn.Module):
    """A residual block's first convolution, fed with shifted features; the block's shortcut is not shifted.

    Args:
        conv: the convolution.
        segments: shared with the network, which sets it.
    """

    def __init__(self, conv: nn.Module, segments: SegmentCount) -> None:
        super().__init__()
        self.conv = conv
        self.segments = segments

    def forward(self, values: Tensor) -> Tensor:
        """[(B S), C, H, W] to what the convolution gives."""
        result: Tensor = self.conv(shift(values, num_segments=self.segments.value))
        return result


def insert_shifts(backbone: nn.Module, *, name: str) -> SegmentCount:
    """Wraps the first convolution of every residual block of a timm ResNet.

    Args:
        backbone: changed in place.
        name: of the backbone, for the error.

    Returns:
        What the shifts read the number of segments from.

    Raises:
        ConfigError: the backbone has no such blocks.
    """
    segments = SegmentCount()
    blocks = [module for module in backbone.modules() if isinstance(module, (BasicBlock, Bottleneck))]
    if not blocks:
        raise ConfigError(
            f"temporal_shift needs the residual blocks of a timm ResNet, which {name} has not (accepted: resnet18, resnet50 "
            "and their kin). Choose one of them, or leave temporal_shift away."
        )
    for block in blocks:
        block.conv1 = ShiftedConv(block.conv1, segments)  # type: ignore[assignment]
    return segments
