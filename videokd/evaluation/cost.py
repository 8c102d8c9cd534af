"""What a network costs: parameters, multiply-accumulates, milliseconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Args:
        parameters: how many it has.
        macs_per_video: multiply-accumulates of a video, all its views together.
    """

    parameters: int
    macs_per_video: int


def parameters(module: nn.Module) -> int:
    """Number of parameters, trained or frozen, shared ones once.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, inputs: Any) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode: half of its floating-point operations.

    Convolutions, matrix products and attention count; normalisation, activations and pooling do not, as in most papers
    (many of which call MACs "FLOPs"). The module's modes and buffers do not change.

    Args:
        module: the network.
        inputs: its argument, or a tuple of its arguments. MACs are those of the whole batch.

    Returns:
        MACs of the pass; FLOPs are twice as many.

    >>> macs(nn.Linear(3, 2), torch.zeros(5, 3))
    30
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    try:
        with torch.no_grad(), _unfused_attention(), counter:
            module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    finally:
        for part, training in modes:
            part.training = training
    return int(counter.get_total_flops()) // 2


def _dot_flops(first: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
    """FLOPs of the products of a matrix or a vector with a vector: every value of the first is used once."""
    return 2 * math.prod(first)


def _addmv_flops(bias: Sequence[int], matrix: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(matrix)


def _addbmm_flops(bias: Sequence[int], a: Sequence[int], b: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(a) * b[-1]


_ATEN = torch.ops.aten
# Matrix products that PyTorch's counter does not know
_UNCOUNTED = {
    _ATEN.mv: _dot_flops,
    _ATEN.dot: _dot_flops,
    _ATEN.vdot: _dot_flops,
    _ATEN.addmv: _addmv_flops,
    _ATEN.addbmm: _addbmm_flops,
}


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Attention as matrix products, which the counter knows: each device has fused kernels of its own, and it knows some of them."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def time_ms(
    function: Callable[[], object], *, repeats: int = 20, warmup: int = 3, device: torch.device | str | None = None
) -> dict[str, float]:
    """How long a call takes.

    Args:
        function: called without arguments, `warmup` + `repeats` times.
        repeats: number of timed calls, ≥ 1.
        warmup: number of calls before them, ≥ 0.
        device: where the work is done; a CUDA device is synchronised around each call.

    Returns:
        {"p50": median, "p95": 95th percentile, both in ms, "repeats": number of timed calls}.

    Raises:
        ValueError: repeats or warmup is out of range.

    >>> time_ms(lambda: sum(range(10)), repeats=5)["repeats"]
    5
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is {repeats} and warmup {warmup} (accepted: repeats ≥ 1, warmup ≥ 0)")
    on_cuda = device is not None and torch.device(device).type == "cuda"
    times = []
    for _ in range(warmup + repeats):
        if on_cuda:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        function()
        if on_cuda:
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times[warmup:], (50, 95))
    return {"p50": float(p50), "p95": float(p95), "repeats": repeats}
