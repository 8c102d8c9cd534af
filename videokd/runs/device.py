"""What networks are computed on and in: device, precision, seed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from videokd.errors import ConfigError
from videokd.messages import say
from videokd.models.backbone import channels_last
from videokd.models.teachers import keep_weights_in
from videokd.runs.settings import PrecisionName

NetworkT = TypeVar("NetworkT", bound=torch.nn.Module)


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
        name: `fp32` (IEEE's, also for convolutions on CUDA), `tf32` (float32 whose products have 10 bits of mantissa), `bf16`, or
            `fp16`, whose gradients need scaling.
        device: where the networks are.

    Raises:
        ConfigError: the name is unknown, or tf32 or fp16 is asked for on a CPU.

    >>> precision = Precision("bf16", torch.device("cpu"))
    >>> with precision.autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    >>> precision.scaler().is_enabled()
    False
    """

    name: Literal["fp32", "tf32", "bf16", "fp16"]
    device: torch.device

    def __post_init__(self) -> None:
        if self.name not in ("fp32", "tf32", "bf16", "fp16"):
            raise ConfigError(
                f"precision is {self.name!r} (accepted: auto, fp32, tf32, bf16, fp16). Choose one of them."
            )
        if self.name in ("tf32", "fp16") and self.device.type != "cuda":
            raise ConfigError(
                f"precision is {self.name} on {self.device.type} (accepted: fp32, bf16; tf32 and fp16 on cuda only). "
                f"Pass `--precision {'fp32' if self.name == 'tf32' else 'bf16'}`."
            )

    @property
    def dtype(self) -> torch.dtype:
        """What convolutions and matrix products compute in; float32 for tf32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name, torch.float32)

    @property
    def described(self) -> dict[str, str]:
        """{"device": cpu or cuda, "gpu": its name, where it is one, "precision"}, for what is measured in it."""
        gpu = {"gpu": torch.cuda.get_device_name(self.device)} if self.device.type == "cuda" else {}
        return {"device": self.device.type, **gpu, "precision": self.name}

    def autocast(self) -> torch.autocast:
        """A new context for the forward passes; it does nothing for fp32 and tf32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.name in ("bf16", "fp16"))

    def prepared(self, network: NetworkT) -> NetworkT:
        """A network that will learn no more, to be used within `autocast` only: on the device, its weights laid out and kept for speed.

        Args:
            network: any module; changed in place.
        """
        keep_weights_in(channels_last(network.to(self.device)), self.dtype)
        return network

    def scaler(self) -> torch.amp.GradScaler:
        """A new gradient scaler; it passes everything through but for fp16, so the loop needs no `if`."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    @contextmanager
    def in_effect(self) -> Iterator[None]:
        """While it lasts, what is computed in float32 on CUDA is computed in TF32 for tf32, and in IEEE's float32 for all others.

        PyTorch's own default is TF32 for convolutions, and IEEE's for matrix products. CPUs are left as they are.
        """
        if self.device.type != "cuda":
            yield
            return
        before = _float32_formats()
        _set_float32_formats(["tf32" if self.name == "tf32" else "ieee"] * len(before))
        try:
            yield
        finally:
            _set_float32_formats(before)


def pick_precision(name: PrecisionName, device: torch.device, *, training: bool = True) -> Precision:
    """The precision to compute in.

    In training, `auto` is bf16 on a CUDA device that has it, fp16 on an older one, and fp32 on a CPU. Networks that only predict
    lose accuracy in bf16, some of them visibly (EfficientNet-Lite: docs/measured.md), so there `auto` is tf32 on a CUDA device that has
    it, and fp32 elsewhere.

    CUDA devices before Ampere have neither bf16, which PyTorch then emulates, nor TF32: fp16 and fp32 take their place, and a line says so.

    Args:
        name: as in the settings.
        device: from `pick_device`.
        training: whether networks learn in it.

    Raises:
        ConfigError: as for `Precision`.

    >>> pick_precision("auto", torch.device("cpu")).name
    'fp32'
    """
    if device.type != "cuda":
        return Precision("fp32" if name == "auto" else name, device)
    wanted = ("bf16" if training else "tf32") if name == "auto" else name
    if wanted not in ("bf16", "tf32") or torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision(wanted, device)
    instead: Literal["fp16", "fp32"] = "fp16" if wanted == "bf16" else "fp32"
    if name != "auto":
        say(f"precision is {name}, which {torch.cuda.get_device_name(device)} does not have: {instead} is used.")
    return Precision(instead, device)


def _float32_products() -> list[Any]:
    """What PyTorch computes in float32 on CUDA with a choice of formats: matrix products, convolutions, recurrent layers."""
    cudnn: Any = torch.backends.cudnn  # typed without its parts
    return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]


def _float32_formats() -> list[str]:
    """ieee, tf32, or none, which is PyTorch's default, in the order of `_float32_products`."""
    return [products.fp32_precision for products in _float32_products()]


def _set_float32_formats(formats: Sequence[str]) -> None:
    with warnings.catch_warnings():  # that these names are old
        warnings.simplefilter("ignore")
        # PyTorch refuses to read the old names, as its compiler does, where they differ from the new ones.
        torch.backends.cuda.matmul.allow_tf32 = formats[0] == "tf32"
        torch.backends.cudnn.allow_tf32 = formats[1] == "tf32"
    for products, chosen in zip(_float32_products(), formats, strict=True):
        products.fp32_precision = chosen
