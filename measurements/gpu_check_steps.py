"""Milliseconds of a training step on this device, one change at a time: the last check of `gpu_check.py`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from bench_step import Bench, Step, batch_of
from gpu_check_runs import Scale, TimedStep
from videokd.runs.device import Precision

Name = Literal["fp32", "bf16", "fp16"]
STEPS_IN_A_ROW = 20


def step_times(scale: Scale) -> dict[str, dict[str, float]]:
    """Milliseconds of a step of three students and three teachers, by variant; "peak GiB" too on CUDA."""
    return {str(step): _times_of(step, scale) for step in scale.steps}


def _times_of(shape: TimedStep, scale: Scale) -> dict[str, float]:
    print(f"    {shape}", flush=True)
    given = argparse.Namespace(**vars(shape) | {"teachers": ",".join(shape.teachers)})
    device = torch.device(scale.device)
    timed = _Timed(device, scale.repeats)
    on_device = batch_of(given).to(device)

    def step(precision: Name = "bf16", *, compiled: bool = False) -> Step:
        return Bench(given, on_device, Precision(precision, device), compiled=compiled).step(3, taught=True)

    timed("fp32", step("fp32"))
    with tf32(True):
        timed("fp32, TF32 allowed", step("fp32"))
    timed("bf16", step())
    if scale.half == "fp16":
        timed("fp16", step("fp16"))
    with cudnn_benchmark(True):
        timed("bf16, cudnn.benchmark", step())
    contiguous = step()
    for module in (contiguous.update._students, *contiguous.target.networks):  # type: ignore[union-attr]
        module.to(memory_format=torch.contiguous_format)
    timed("bf16, filters not channels last", contiguous)
    fused = step()
    fused.update._optimizers = {
        only: torch.optim.AdamW(optimizer.param_groups, fused=True)
        for only, optimizer in fused.update._optimizers.items()
    }
    timed("bf16, fused AdamW", fused)
    halved = step()
    for network in halved.target.networks:  # type: ignore[union-attr]
        network.to(torch.bfloat16)
    timed("bf16, teachers kept in bf16", halved)
    if scale.device == "cuda":
        timed.in_a_row(step())
        timed("bf16, compiled", step(compiled=True))
    return timed.found


class _Timed:
    """Times steps.

    Args:
        device: waited for.
        repeats: of each step, after three to warm up.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._on_cuda, self._repeats = device.type == "cuda", repeats
        self.found: dict[str, float] = {}

    def _wait(self) -> float:
        if self._on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def __call__(self, name: str, step: Callable[[], Any]) -> None:
        for _ in range(3):
            step()
        times = []
        for _ in range(self._repeats):
            began = self._wait()
            step()
            times.append(self._wait() - began)
        self._keep(name, statistics.median(times))

    def in_a_row(self, step: Step) -> None:
        """Many steps without waiting for the device, and with waiting for each; and the most memory that was held."""
        step()
        torch.cuda.reset_peak_memory_stats()
        began = self._wait()
        for _ in range(STEPS_IN_A_ROW):
            step()
        self._keep("bf16, steps in a row", (self._wait() - began) / STEPS_IN_A_ROW)
        began = self._wait()
        for _ in range(STEPS_IN_A_ROW):
            float(step()[0].total)
        self._keep("bf16, steps in a row, each loss read", (self._wait() - began) / STEPS_IN_A_ROW)
        self.found["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def _keep(self, name: str, seconds: float) -> None:
        self.found[name] = round(1000 * seconds, 2)
        print(f"    {1000 * seconds:8.2f} ms  {name}", flush=True)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions and products may use TF32 while it lasts."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms and takes the fastest while it lasts."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
