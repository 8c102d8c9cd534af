"""Losses between features: of a student and its teachers, clip by clip, and in how the clips of a batch relate to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.distill.losses import check_same_shape, full_precision, widen

#: How a student's adapted features are compared with a teacher's.
FeatureLoss = Literal["cosine", "l2"]

#: Park et al. weigh angles twice as much as distances.
_ANGLES = 2.0
# Below this share of the mean distance, two clips count as one point, which has no direction to another
_SAME_POINT = 1e-6


@dataclass(frozen=True)
class TeacherFeatures:
    """The pooled deepest features of several teachers for the same clips.

    Args:
        features: {teacher: [B, D], any float dtype, D its own}.
        weights: {teacher: w ≥ 0}, the same names; divided by their sum where they are used.

    Raises:
        ValueError: the names or the numbers of clips differ, or the weights sum to zero.
    """

    features: Mapping[str, Tensor]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        clips = {len(values) if values.ndim == 2 else -1 for values in self.features.values()}
        if set(self.features) != set(self.weights) or len(clips) != 1 or -1 in clips or not sum(self.weights.values()):
            shapes = {name: list(values.shape) for name, values in self.features.items()}
            raise ValueError(
                f"features are {shapes}, weights {dict(self.weights)} (accepted: [B, D] and a weight for each teacher, one above 0)"
            )

    def split(self, pieces: int) -> list[TeacherFeatures]:
        """The features of the pieces that `Batch.split` gives."""
        size = -(-len(next(iter(self.features.values()))) // pieces)
        apart = {name: torch.split(values, size) for name, values in self.features.items()}
        each = (dict(zip(apart, of_piece, strict=True)) for of_piece in zip(*apart.values(), strict=True))
        return [TeacherFeatures(features, self.weights) for features in each]

    @property
    def shares(self) -> dict[str, float]:
        """The weights, divided by their sum."""
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in self.weights.items()}


def feature_loss(adapted: Tensor, teacher: Tensor, *, kind: FeatureLoss = "cosine") -> Tensor:
    """How far a student's adapted features are from a teacher's, mean over the batch.

    cosine: 1 − cos(a, t). l2: mean over the D features of (a − t/r)², r the root mean square of t's own features: the teacher's
    features get size 1 in each clip, so that the weight of the loss means the same for every teacher; the student's are taken as
    they are, and the adapter finds the size (a linear regressor on the student's side as in Romero et al. 2015, FitNets).

    Args:
        adapted: [B, D] features of the student behind its adapter to this teacher, any float dtype; computed in float32.
        teacher: [B, D] features of the teacher; no gradient flows into them.
        kind: cosine or l2.

    Returns:
        A scalar, at least 0; of cosine at most 2.

    Raises:
        ValueError: the shapes differ.

    >>> a, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    >>> feature_loss(a, t).item(), round(feature_loss(a, t, kind="l2").item(), 4)  # (1² + √2²) / 2
    (1.0, 1.5)
    """
    check_same_shape(adapted, teacher, names="adapted and teacher")
    with full_precision(adapted):
        own, theirs = widen(adapted), widen(teacher.detach())
        if kind == "cosine":
            return (1 - F.cosine_similarity(own, theirs, dim=1)).mean()
        return F.mse_loss(own, F.rms_norm(theirs, theirs.shape[1:], eps=1e-8))


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently student and teacher see the clips of a batch relate: by their distances, and by the angles between them.

    Relational knowledge distillation (Park et al. 2019, equations 5 to 9), distances and angles as 1 : 2. h is Huber's loss with δ = 1:
    the mean over pairs i ≠ j of h(‖s_i − s_j‖ / μ_s, ‖t_i − t_j‖ / μ_t), μ the mean distance of all pairs of the batch, plus twice the mean
    over triples of different clips of h(cos ∠s_i s_j s_k, cos ∠t_i t_j t_k). Features of student and teacher may differ in
    width: no adapter is needed.

    It sees the batch as a whole: on several ranks, or with accumulation, it sees what each of them has. Memory grows with
    B² · D and B³.

    Args:
        student: [B, D] features, any float dtype; computed in float32.
        teacher: [B, D'] features; no gradient flows into them.

    Returns:
        A scalar, at least 0. A pair has no angles, and a single clip no distances: these terms are 0.

    Raises:
        ValueError: the numbers of clips differ.

    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> relation_loss(line, 10 - 7 * line).item()  # neither place nor size nor direction matter
    0.0...
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"student is {list(student.shape)}, teacher {list(teacher.shape)} (accepted: features of the same clips)"
        )
    with full_precision(student):
        distances, angles = _relations(widen(student))
        target_distances, target_angles = _relations(widen(teacher.detach()))
        loss = student.new_zeros((), dtype=distances.dtype)
        count = len(student)
        # Where clips are not different, both sides are 0. Counted by number and not by a mask: a GPU would have to tell how many it has.
        if count > 1:
            summed = F.smooth_l1_loss(distances, target_distances, reduction="sum")
            loss = loss + summed / (count * (count - 1))
        if count > 2:
            summed = F.smooth_l1_loss(angles, target_angles, reduction="sum")
            loss = loss + _ANGLES * summed / (count * (count - 1) * (count - 2))
        return loss


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """[B, D] to the distances of all pairs, divided by their mean, and to the cosines at the middle clip of all triples.

    Both are 0 where two of the clips are the same.
    """
    num_clips = len(features)
    between = features.unsqueeze(0) - features.unsqueeze(1)  # [B, B, D]
    distances: Tensor = torch.linalg.vector_norm(between, dim=2)  # [B, B], 0 on the diagonal
    others = ~torch.eye(num_clips, dtype=torch.bool, device=features.device)
    # of clips that are all alike there is no mean to divide by
    mean = (
        distances.sum().div(num_clips * (num_clips - 1)).clamp(min=1e-12) if num_clips > 1 else distances.new_ones(())
    )
    apart = distances > _SAME_POINT * mean
    directions = between / torch.where(apart, distances, mean).unsqueeze(2)  # from clip j to clip i, [j, i, D]
    cosines = directions @ directions.transpose(1, 2)  # [j, i, k]: the angle at j
    triples = others.unsqueeze(2) & others.unsqueeze(1) & others.unsqueeze(0)  # j ≠ i, j ≠ k, i ≠ k
    return distances / mean, torch.where(triples, cosines, 0.0)
