"""Specs of tiny networks and random input for them."""

from __future__ import annotations

import torch

from videokd.models.network_spec import NetworkSpec
from videokd.types import STREAMS


def spec(*streams: str, backbone: str = "test_resnet", size: int = 32) -> NetworkSpec:
    return NetworkSpec(streams, backbone, 5, size)


def random_streams(
    *names: str, batch: int = 2, segments: int = 3, size: int = 32, seed: int = 0
) -> dict[str, torch.Tensor]:
    """{stream: uint8 [B, S, C, H, W]}, the same for equal arguments."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (batch, segments, STREAMS[name].channels, size, size) for name in names}
    return {name: torch.randint(256, shape, dtype=torch.uint8, generator=generator) for name, shape in shapes.items()}
