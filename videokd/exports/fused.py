"""A set of students as one module that graphs can be made of: uint8 streams in, fused logits out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import videokd
from videokd.distill.fusion import fuse
from videokd.errors import VideoKDError
from videokd.models.finite import random_videos
from videokd.models.students import Students
from videokd.prediction.graph_metadata import graph_metadata
from videokd.prediction.torch_predictor import TorchPredictor

#: Of the largest logit: runtimes add up in another order.
TOLERANCE = 1e-4


class Fused(nn.Module):
    """All students and the fusion of their logits, with nothing that a graph cannot hold.

    Args:
        students: in evaluation mode, on the CPU.
        with_exits: give the logits of their shallow exits too.
    """

    shares: Tensor

    def __init__(self, students: Students, *, with_exits: bool) -> None:
        super().__init__()
        self.students = students
        self.with_exits = with_exits and bool(students.exits)
        weights = [students.weights[name] for name in students.specs]
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        self.register_buffer("shares", shares.float().reshape(-1, 1, 1))  # [M, 1, 1]

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, S, C, H, W] of each input, in the students' order, to [B, K] of each output."""
        all_logits = self.students.logits(dict(zip(self.inputs, streams, strict=True)), with_exits=self.with_exits)
        stacked = torch.stack([all_logits.pop(name) for name in self.students.specs])  # [M, B, K]
        if self.students.space == "logits":
            fused = (self.shares * stacked).sum(0)
        else:
            fused = (self.shares.log() + stacked.log_softmax(2)).logsumexp(0)
        return (fused, *all_logits.values())

    @property
    def inputs(self) -> tuple[str, ...]:
        """Keys of the inputs, in their order."""
        return self.students.inputs_at(self.students.input_size)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order: logits, then `STUDENT:exit1` and so on."""
        exits = self.students.exits.items() if self.with_exits else ()
        return ("logits", *(f"{student}:{name}" for student, module in exits for name, _ in module.named_children()))

    @property
    def metadata(self) -> dict[str, str]:
        """The texts that a file of the graph carries."""
        students = self.students
        return graph_metadata(
            TorchPredictor(students).wanted,
            fusion={"weights": students.weights, "space": students.space},
            videokd_version=videokd.__version__,
        )

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with; no open size is 1, which torch.export would take for a constant."""
        return tuple(random_videos(self.students, batch=2, segments=max(self.students.num_segments, 2)).values())

    @property
    def dynamic_shapes(self) -> Any:
        """Which sizes of the inputs stay open: batch and segments."""
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("segments")}
        return (tuple(dict(sizes) for _ in self.inputs),)


@contextmanager
def errors_only(logger: str | None = None) -> Iterator[None]:
    """While it lasts, a logger passes on errors alone: exporters tell their own developers much that no user can act on.

    Args:
        logger: its name; None: the root of all loggers.
    """
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def evaluated(students: Students) -> Iterator[None]:
    """While it lasts, nothing is trained, and no gradients are recorded."""
    students.eval()
    with torch.no_grad():
        yield


def compare(fused: Fused, computed: Callable[[Mapping[str, Tensor]], Sequence[Tensor]], *, file: Path) -> None:
    """Refuses a graph that says something else than PyTorch does, for random videos in several numbers and lengths.

    Args:
        fused: what the graph was made of.
        computed: gives the graph's outputs for {input: uint8 [B, S, C, H, W]}.
        file: that it is for, for the message.

    Raises:
        VideoKDError: an output differs by more than 1e-4 of its largest value.
    """
    students = fused.students
    for batch, segments in ((1, students.num_segments), (3, 2 * students.num_segments)):
        videos = random_videos(students, batch=batch, segments=segments)
        logits = students.logits(videos, with_exits=fused.with_exits)
        own = {name: logits.pop(name) for name in students.specs}
        expected = [fuse(own, students.weights, space=students.space), *logits.values()]  # type: ignore[arg-type]
        for name, wanted, found in zip(fused.outputs, expected, computed(videos), strict=True):
            off, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
            if not off <= TOLERANCE * max(largest, 1.0):
                raise VideoKDError(
                    f"{file.name}: {name} is off by {off:.2g} where PyTorch's largest is {largest:.2g}: the graph is not written. Export as "
                    "safetensors, and report the backbone."
                )
