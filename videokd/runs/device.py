"""What surrounds a training loop: seed, device, precision, and how to stop it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from videokd.errors import ConfigError


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch, on every device.

    Args:
        seed: 0 to 2**32 − 1.

    >>> seed_everything(7); a = torch.rand(1); seed_everything(7); bool(a == torch.rand(1))
    True
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed} (accepted: 0 to {2**32 - 1}). Choose another one.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; `auto` is CUDA where there is one.

    Raises:
        ConfigError: the name is unknown, or CUDA is asked for and not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r} (accepted: auto, cpu, cuda). Choose one of them.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is cuda, but PyTorch finds no CUDA device (accepted: auto, cpu). Pass `--device cpu`."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass(frozen=True)
class Precision:
    """The number format that networks compute in; weights and losses stay in float32.

    Args:
        name: `fp32`, `bf16`, or `fp16`, whose gradients need scaling.
        device: where the networks are.

    Raises:
        ConfigError: the name is unknown, or fp16 is asked for on a CPU.

    >>> precision = Precision("bf16", torch.device("cpu"))
    >>> with precision.autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    >>> precision.scaler().is_enabled()
    False
    """

    name: Literal["fp32", "bf16", "fp16"]
    device: torch.device

    def __post_init__(self) -> None:
        if self.name not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"precision is {self.name!r} (accepted: fp32, bf16, fp16). Choose one of them.")
        if self.name == "fp16" and self.device.type != "cuda":
            raise ConfigError(
                f"precision is fp16 on {self.device.type} (accepted: fp32, bf16; fp16 on cuda only). "
                "Pass `--precision bf16`."
            )

    def autocast(self) -> torch.autocast:
        """A new context for the forward passes; it does nothing for fp32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.name != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """A new gradient scaler; it passes everything through but for fp16, so the loop needs no `if`."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
