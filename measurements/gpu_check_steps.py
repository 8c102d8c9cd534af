"""Milliseconds of a training step on this device, one change at a time: the last check of `gpu_check.py`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from bench_step import Bench, Step, batch_of
from gpu_check_runs import Scale, TimedStep
from videokd.runs.device import Precision

Name = Literal["fp32", "tf32", "bf16", "fp16"]
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

    def step(precision: Name = "bf16") -> Step:
        return Bench(given, on_device, Precision(precision, device), compiled=False).step(3, taught=True)

    on_cuda: Sequence[Name] = ("fp32", "tf32", "bf16", "fp16")
    on_cpu: Sequence[Name] = ("fp32", "bf16")
    names = on_cuda if scale.device == "cuda" else on_cpu
    with cudnn_benchmark(True):  # as in a training
        for name in names:
            with Precision(name, device).in_effect():
                timed(name, step(name))
        for changed, change in CHANGES.items():
            other = step()
            change(other)
            timed(f"bf16, {changed}", other)
        if scale.device == "cuda":
            timed.in_a_row(step())
    with cudnn_benchmark(False):
        timed("bf16, cuDNN does not try its algorithms", step())
    return timed.found


def _not_channels_last(step: Step) -> None:
    for module in (step.update._students, *step.target.networks):  # type: ignore[union-attr]
        module.to(memory_format=torch.contiguous_format)


def _optimizer_of_many_kernels(step: Step) -> None:
    optimizers = step.update._optimizers
    for only, optimizer in optimizers.items():
        optimizers[only] = torch.optim.AdamW(optimizer.param_groups, foreach=False, fused=False)


def _teachers_in_float32(step: Step) -> None:
    for network in step.target.networks:  # type: ignore[union-attr]
        network.float()


#: What is switched off, one at a time.
CHANGES: Mapping[str, Callable[[Step], None]] = {
    "filters not channels last": _not_channels_last,
    "an optimizer of many kernels": _optimizer_of_many_kernels,
    "teachers' weights in float32": _teachers_in_float32,
}


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
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms and takes the fastest while it lasts."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
