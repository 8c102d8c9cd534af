"""What students learn from: labels, teachers, peers and their own deepest exit, each with a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from videokd.distill.feature_losses import FeatureLoss, TeacherFeatures, feature_loss, relation_loss
from videokd.distill.losses import (
    cross_entropy,
    dist_loss,
    dkd_loss,
    kd_loss,
    mutual_loss,
    pseudo_label_loss,
    self_distillation_loss,
    standardise,
)
from videokd.distill.mixup import GroundTruth
from videokd.errors import ConfigError
from videokd.types import StudentOutput

#: How the students follow the teachers' target.
TargetLoss = Literal["kd", "dist", "dkd", "hard"]
# Those with two terms, and their default weights
_TWO_TERMS: Mapping[str, tuple[float, float]] = {"dist": (1.0, 1.0), "dkd": (1.0, 8.0)}


@dataclass(frozen=True)
class Objective:
    """The loss of one or several students; a weight of zero switches its part off.

    total_i = (1−α)·CE + α·distillation + β·mutual + self + φ·features + ρ·relations; the total is the sum over students.

    Args:
        alpha: α in [0, 1], the share of the teachers' target; 0 without teachers.
        beta: β ≥ 0, the weight of mutual learning; 0 for a single student.
        temperature: T > 0 of distillation and self-distillation; mutual learning has T = 1.
        peers: whether each peer teaches by itself or all by their mean prediction.
        gamma: γ in [0, 1], the share of the deepest exit's predictions in what shallow exits learn. Be Your Own Teacher
            has 0.3 at T = 3 without the factor T²; with it, the same balance is near 0.05.
        hint_weight: λ ≥ 0 of the hint loss of shallow exits.
        target_loss: how the target is followed: `kd`, `dist`, `dkd` or `hard`; also the part's name in the log.
        target_weights: of the two terms of dist (over classes, over the batch; 1 and 1 if omitted) or of dkd (labelled
            class, other classes; 1 and 8); kd and hard have one term and none.
        standardise: bring the target's and the student's logits to mean 0 and deviation 1 before T, for any target_loss but
            hard. T then means something else: 1 to 2 is common, with a larger share of the target. Peers and exits are
            compared as they are.
        confidence: for hard only, in [0, 1]: clips of which the target is less sure do not count; 0 counts all.
        feature_weight: φ ≥ 0, of the distance between the student's adapted features and each teacher's.
        feature_loss: what that distance is: `cosine` or `l2`; see `videokd.distill.feature_losses`.
        relation_weight: ρ ≥ 0, of how differently student and teachers see the clips of a batch relate (RKD).

    Raises:
        ConfigError: a number is outside its range.

    >>> outputs = {name: StudentOutput(torch.randn(4, 10)) for name in ("a", "b")}
    >>> objective = Objective(alpha=0.5, beta=1.0)
    >>> total, parts = objective(outputs, torch.randn(4, 10), torch.tensor([1, 2, 3, 4]))
    >>> list(parts)
    ['a/ce', 'a/kd', 'a/mutual', 'b/ce', 'b/kd', 'b/mutual']
    """

    alpha: float = 0.0
    beta: float = 0.0
    temperature: float = 2.0
    peers: Literal["separate", "ensemble"] = "separate"
    gamma: float = 0.05
    hint_weight: float = 0.03
    target_loss: TargetLoss = "kd"
    target_weights: tuple[float, float] | None = None
    standardise: bool = False
    confidence: float = 0.0
    feature_weight: float = 0.0
    feature_loss: FeatureLoss = "cosine"
    relation_weight: float = 0.0

    def __post_init__(self) -> None:
        accepted = {
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "beta": (0 <= self.beta < math.inf, "0 or more"),
            "temperature": (0 < self.temperature < math.inf, "a number above 0"),
            "peers": (self.peers in ("separate", "ensemble"), "separate, ensemble"),
            "gamma": (0 <= self.gamma <= 1, "0 to 1"),
            "hint_weight": (0 <= self.hint_weight < math.inf, "0 or more"),
            "target_loss": (self.target_loss in get_args(TargetLoss), ", ".join(get_args(TargetLoss))),
            "target_weights": (
                _fits(self.target_weights, self.target_loss),
                "two, 0 or more, for dist and dkd; else none",
            ),
            "standardise": (
                not (self.standardise and self.target_loss == "hard"),
                "false for target_loss hard, which sees the target's class only",
            ),
            "confidence": (
                0 <= self.confidence <= (1 if self.target_loss == "hard" else 0),
                "0 to 1 for target_loss hard; else 0",
            ),
            "feature_weight": (0 <= self.feature_weight < math.inf, "0 or more"),
            "feature_loss": (self.feature_loss in get_args(FeatureLoss), ", ".join(get_args(FeatureLoss))),
            "relation_weight": (0 <= self.relation_weight < math.inf, "0 or more"),
        }
        for name, (good, what) in accepted.items():
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)} (accepted: {what}). Correct the setting.")

    @property
    def needs_features(self) -> bool:
        """Whether a part compares features, so that students and teachers have to give theirs."""
        return self.feature_weight > 0 or self.relation_weight > 0

    def __call__(
        self,
        outputs: Mapping[str, StudentOutput],
        target: Tensor | None,
        label: GroundTruth,
        features: TeacherFeatures | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all students together.

        Args:
            outputs: {student: its output}, all of the same batch.
            target: [B, K] fused logits of the teachers; None without teachers.
            label: int64 [B], or the labels of a mixture.
            features: the teachers'; None where no part compares features.

        Returns:
            The total to go backward from, and its parts for the log (`student/ce`, `student/kd`, `student/mutual`, `student/feature`,
            `student/relation`, `student/exit1/ce`, …): scalars without a graph, already weighted, whose sum is the total.

        Raises:
            ConfigError: alpha > 0 without a target, beta > 0 with a single student, no student at all, or features are missing.
            ValueError: shapes differ.
        """
        if not outputs:
            raise ConfigError("there are no students (accepted: the outputs of one or more). Add a student.")
        totals = []
        parts: dict[str, Tensor] = {}
        for student in outputs:
            total, of_student = self.for_student(student, outputs, target, label, features)
            totals.append(total)
            parts |= of_student
        return torch.stack(totals).sum(), parts

    def for_student(
        self,
        student: str,
        outputs: Mapping[str, StudentOutput],
        target: Tensor | None,
        label: GroundTruth,
        features: TeacherFeatures | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one student among its peers, as alternating updates need it.

        Args:
            student: which of the outputs learns; the others are its peers, and no gradient reaches them.
            outputs: as for the call, and so are target, label, features, what returns and what raises.
            target: [B, K] or None.
            label: int64 [B], or the labels of a mixture.
            features: the teachers', or None.

        Raises:
            ConfigError: alpha > 0 without a target, beta > 0 without a peer, or features are missing.
        """
        if self.alpha > 0 and target is None:
            raise ConfigError(
                f"alpha is {self.alpha}, but there are no teachers (accepted: 0). Name teachers, or set alpha to 0."
            )
        if self.beta > 0 and len(outputs) < 2:
            raise ConfigError(
                f"beta is {self.beta}, but {student} has no peer (accepted: 0). Add a student, or set beta to 0."
            )
        output = outputs[student]
        parts: dict[str, Tensor] = {}
        if self.alpha < 1:
            hard = cross_entropy(output.logits, label)
            parts[f"{student}/ce"] = (1 - self.alpha) * hard
        if self.alpha > 0 and target is not None:
            parts[f"{student}/{self.target_loss}"] = self.alpha * self._to_target(output.logits, target, label)
        if self.beta > 0:
            peers = [other.logits for name, other in outputs.items() if name != student]
            parts[f"{student}/mutual"] = self.beta * mutual_loss(output.logits, peers, peers_as=self.peers)
        if self.needs_features:
            compared = self._to_features(output, features)
            parts |= {f"{student}/{name}": part for name, part in compared.items()}
        _, of_exits = self_distillation_loss(
            output,
            label,
            gamma=self.gamma,
            temperature=self.temperature,
            hint_weight=self.hint_weight,
        )
        parts |= {f"{student}/{name}": part for name, part in of_exits.items()}
        total = torch.stack(list(parts.values())).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def _to_target(self, logits: Tensor, target: Tensor, label: GroundTruth) -> Tensor:
        """How far a student is from the teachers' target, by the loss that was chosen."""
        if self.target_loss == "hard":
            return pseudo_label_loss(logits, target, confidence=self.confidence)
        if self.standardise:
            logits, target = standardise(logits), standardise(target)
        if self.target_loss == "dist":
            over_classes, over_batch = self.target_weights or _TWO_TERMS["dist"]
            return dist_loss(
                logits, target, temperature=self.temperature, over_classes=over_classes, over_batch=over_batch
            )
        if self.target_loss == "dkd":
            of_label, of_others = self.target_weights or _TWO_TERMS["dkd"]
            return dkd_loss(
                logits, target, label, temperature=self.temperature, target_class=of_label, other_classes=of_others
            )
        return kd_loss(logits, target, temperature=self.temperature)

    def _to_features(self, output: StudentOutput, features: TeacherFeatures | None) -> dict[str, Tensor]:
        """How far a student's features are from the teachers', by name, each teacher by its share."""
        if features is None or output.features is None:
            missing = "the teachers'" if features is None else "the student's"
            raise ConfigError(
                f"feature_weight is {self.feature_weight}, relation_weight {self.relation_weight}, but {missing} features are not "
                "there (accepted: 0 and 0). Name teachers that give features, or set both to 0."
            )
        parts: dict[str, list[Tensor]] = {"feature": [], "relation": []}
        for teacher, share in features.shares.items():
            theirs = features.features[teacher]
            if self.feature_weight > 0:
                distance = feature_loss(output.adapted[teacher], theirs, kind=self.feature_loss)
                parts["feature"].append(self.feature_weight * share * distance)
            if self.relation_weight > 0:
                parts["relation"].append(self.relation_weight * share * relation_loss(output.features, theirs))
        return {name: torch.stack(terms).sum() for name, terms in parts.items() if terms}


def _fits(weights: tuple[float, float] | None, target_loss: str) -> bool:
    if weights is None:
        return True
    return target_loss in _TWO_TERMS and len(weights) == 2 and all(0 <= weight < math.inf for weight in weights)
