"""The teachers' target: their weighted, fused logits, and their features where these are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from videokd.distill.calibration import confidence_weights
from videokd.distill.feature_losses import TeacherFeatures
from videokd.distill.fusion import weighted_mean
from videokd.distill.mixup import GroundTruth
from videokd.errors import ConfigError
from videokd.models.teachers import Teachers
from videokd.runs.device import Precision
from videokd.runs.run_settings import Weighting
from videokd.types import Batch


class TeacherSource(Protocol):
    """Whatever gives the teachers' logits for a batch: the networks (`Teachers`), or a file of logits that they gave before."""

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams that a batch must have for it."""

    def __call__(self, batch: Batch, /) -> Mapping[str, Tensor]:
        """{teacher: logits [B, K]}, on the batch's device, without gradients."""


@runtime_checkable
class FeatureSource(Protocol):
    """A `TeacherSource` that gives features too."""

    @property
    def feature_widths(self) -> dict[str, int]:
        """{teacher: the number of its features}."""

    def with_features(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{teacher: logits [B, K]}, {teacher: features [B, D]}."""


@dataclass(frozen=True)
class Target:
    """What the teachers give for one batch.

    Args:
        fused: float32 [B, K], their fused logits.
        predictions: {teacher: the class it predicts for each clip, int64 [B]}.
        features: where they are compared; else None.
    """

    fused: Tensor
    predictions: Mapping[str, Tensor] = field(default_factory=dict)
    features: TeacherFeatures | None = None

    def split(self, pieces: int) -> list[Target]:
        """The targets of the pieces that `Batch.split` gives."""
        size = -(-len(self.fused) // pieces)
        fused = torch.split(self.fused, size)
        features = [None] * len(fused) if self.features is None else self.features.split(pieces)
        return [
            Target(
                values,
                {name: p[n * size : (n + 1) * size] for name, p in self.predictions.items()},
                features=features[n],
            )
            for n, values in enumerate(fused)
        ]


@dataclass(frozen=True)
class TeacherTarget:
    """The target of the distillation: what all teachers together predict for a batch.

    Args:
        teachers: the frozen networks, or what stands in for them.
        weights: {teacher: w}.
        temperatures: {teacher: T} that its logits are divided by.
        weighting: only the weights, or the weights times each teacher's confidence in the ground truth.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
        with_features: give the teachers' features too.

    Raises:
        ConfigError: features are asked for, and the teachers do not give any.
    """

    teachers: TeacherSource
    weights: Mapping[str, float]
    temperatures: Mapping[str, float]
    weighting: Weighting = "fixed"
    space: Literal["logits", "probs"] = "logits"
    temperature: float = 1.0
    with_features: bool = False

    def __post_init__(self) -> None:
        if self.with_features:
            self._feature_source()

    @property
    def feature_widths(self) -> dict[str, int]:
        """{teacher: the number of its features}.

        Raises:
            ConfigError: the teachers do not give any.
        """
        return self._feature_source().feature_widths

    def _feature_source(self) -> FeatureSource:
        if not isinstance(self.teachers, FeatureSource):
            raise ConfigError(
                "objective.feature_weight and objective.relation_weight need the teachers' features, and stored targets have only their "
                "logits (accepted: 0 and 0). Let the teachers run in every epoch, or set both to 0."
            )
        return self.teachers

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that run, to be moved to a device and compiled; none where logits are looked up."""
        return [*self.teachers.networks.values()] if isinstance(self.teachers, Teachers) else []

    @torch.no_grad()
    def __call__(self, batch: Batch, label: GroundTruth, precision: Precision) -> Target:
        """The target for one batch.

        Args:
            batch: on the teachers' device.
            label: the batch's own, or that of its mixture; only confidence weights depend on it.
            precision: of the teachers.
        """
        given: Mapping[str, Tensor]
        features: Mapping[str, Tensor] = {}
        with precision.autocast():
            if self.with_features:
                given, features = self._feature_source().with_features(batch)
            else:
                given = self.teachers(batch)
        logits = {name: values.float() / self.temperatures[name] for name, values in given.items()}
        weights: dict[str, float | Tensor] = dict(self.weights)
        if self.weighting == "confidence":
            weights = {name: self.weights[name] * c for name, c in confidence_weights(logits, label).items()}
        fused = weighted_mean(logits, weights, space=self.space, temperature=self.temperature)
        predictions = {name: values.argmax(1) for name, values in logits.items()}
        # Fixed weights: how close a teacher is to the label says little about its features
        return Target(fused, predictions, TeacherFeatures(features, self.weights) if features else None)
