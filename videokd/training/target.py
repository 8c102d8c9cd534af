"""The teachers' target: their weighted, fused logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videokd.distill.calibration import confidence_weights
from videokd.distill.fusion import fuse
from videokd.distill.mixup import GroundTruth
from videokd.models.teachers import Teachers
from videokd.runs.device import Precision
from videokd.runs.run_settings import Weighting
from videokd.types import Batch


@dataclass(frozen=True)
class TeacherTarget:
    """The target of the distillation: what all teachers together predict for a batch.

    Args:
        teachers: the frozen networks.
        weights: {teacher: w}.
        temperatures: {teacher: T} that its logits are divided by.
        weighting: only the weights, or the weights times each teacher's confidence in the ground truth.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
    """

    teachers: Teachers
    weights: Mapping[str, float]
    temperatures: Mapping[str, float]
    weighting: Weighting = "fixed"
    space: Literal["logits", "probs"] = "logits"
    temperature: float = 1.0

    @torch.no_grad()
    def __call__(self, batch: Batch, label: GroundTruth, precision: Precision) -> tuple[Tensor, dict[str, Tensor]]:
        """The target for one batch.

        Args:
            batch: on the teachers' device.
            label: the batch's own, or that of its mixture; only confidence weights depend on it.
            precision: of the teachers.

        Returns:
            The fused logits, float32 [B, K]; {teacher: the class it predicts for each clip, int64 [B]}.
        """
        with precision.autocast():
            logits = self.teachers(batch)
        logits = {name: values.float() / self.temperatures[name] for name, values in logits.items()}
        weights: dict[str, float | Tensor] = dict(self.weights)
        if self.weighting == "confidence":
            weights = {name: self.weights[name] * c for name, c in confidence_weights(logits, label).items()}
        fused = fuse(logits, weights, space=self.space, temperature=self.temperature)
        return fused, {name: values.argmax(1) for name, values in logits.items()}
