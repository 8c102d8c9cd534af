"""Clips mixed in pairs: teachers and students see the same mixture, and learn its two labels by their shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videokd.errors import ConfigError
from videokd.types import NO_LABEL, Batch


@dataclass(frozen=True)
class MixedLabel:
    """The labels of clips that were mixed in pairs.

    Args:
        label: int64 [B], of each clip itself.
        other: int64 [B], of the clip it was mixed with.
        share: λ in [0, 1], how much of the mixture is the clip itself.
        num_labelled: a scalar, by which a sum over the clips that have a label is divided for their mean: see `counted_over`. None: by how
            many of these have one.

    Raises:
        ValueError: the shapes differ, or the share is outside its range.
    """

    label: Tensor
    other: Tensor
    share: float
    num_labelled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.label.shape != self.other.shape or self.label.ndim != 1 or not 0 <= self.share <= 1:
            raise ValueError(
                f"label is {list(self.label.shape)}, other {list(self.other.shape)}, share {self.share} (accepted: [B] "
                "and [B], 0 to 1)"
            )

    def split(self, pieces: int) -> list[MixedLabel]:
        """The labels of the pieces that `Batch.split` gives."""
        size = -(-len(self.label) // pieces)
        both = zip(torch.split(self.label, size), torch.split(self.other, size), strict=True)
        num, whole = self.num_labelled, len(self.label)
        return [
            MixedLabel(label, other, self.share, None if num is None else num * (len(label) / whole))
            for label, other in both
        ]


#: What a loss takes as the truth: int64 [B], or the labels of a mixture.
GroundTruth = Tensor | MixedLabel


def over_labels(loss: Callable[[Tensor], Tensor], label: GroundTruth) -> Tensor:
    """The loss of the label; of a mixture, that of both labels, weighted by their shares.

    Args:
        loss: from a label, int64 [B], to a tensor of any shape.
        label: int64 [B], or a mixture's two.

    >>> mixed = MixedLabel(torch.tensor([0]), torch.tensor([4]), share=0.75)
    >>> over_labels(lambda label: label.float(), mixed)
    tensor([1.])
    """
    if isinstance(label, Tensor):
        return loss(label)
    if label.share == 1:
        return loss(label.label)
    return label.share * loss(label.label) + (1 - label.share) * loss(label.other)


def number_labelled(label: GroundTruth) -> Tensor:
    """By what a sum over the clips that have a label is divided for their mean: how many have one, or what `counted_over` says."""
    if isinstance(label, MixedLabel) and label.num_labelled is not None:
        return label.num_labelled
    return ((label if isinstance(label, Tensor) else label.label) != NO_LABEL).sum()


def counted_over(label: GroundTruth, num_labelled: Tensor) -> MixedLabel:
    """The same labels, whose mean is that over all clips of a step that have a label, however the step is divided.

    Ranks, and pieces of a batch, have as many clips each, but not as many labels: with means of their own, a clip's label would
    count for more where it has few beside it.

    Args:
        label: of this rank's share of the batch.
        num_labelled: a scalar: the mean over the ranks of how many clips have a label.

    >>> counted_over(torch.tensor([2, -1, 0, 1]), torch.tensor(2)).split(2)[0].num_labelled
    tensor(1.)
    """
    if isinstance(label, MixedLabel):
        return replace(label, num_labelled=num_labelled)
    return MixedLabel(label, label, 1.0, num_labelled)


def mixup(batch: Batch, *, alpha: float, rng: np.random.Generator) -> tuple[Batch, MixedLabel]:
    """Each clip blended with another one of the batch: λ of itself and 1 − λ of the other, λ ~ Beta(α, α).

    One order and one λ serve the whole batch and all its streams, so that every teacher and every student sees the same
    mixture, as "function matching" asks for (Zhang et al. 2018, mixup; Beyer et al. 2022). Values stay uint8: the
    blend is computed in float32 and rounded to the nearest, half to even, at most 0.5 of 255 off; where two clips
    agree, as motion does in its zero, 128, they stay as they are.

    Args:
        batch: on any device; mix it before the teachers see it, and before it is split.
        alpha: α > 0; 0.2 gives mostly one of the two clips, 1 any share alike.
        rng: gives λ and the order; seeded by (seed, step, rank), a resumed run mixes as an uninterrupted one.

    Returns:
        The mixed batch, with the label, id and numbers of each clip itself, and both labels for the loss.

    Raises:
        ConfigError: alpha is not positive.

    >>> streams = {"motion": torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8)}
    >>> mixed, label = mixup(Batch(streams, torch.arange(4), tuple("abcd")), alpha=1.0, rng=np.random.default_rng(0))
    >>> mixed, label.other
    (Batch(streams={motion: uint8[4, 3, 2, 8, 8]}, label=int64[4], video_ids=('a', 'b', 'c', 'd'), clips=int64[4], views=int64[4]),
        tensor([...]))
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"mixup's alpha is {alpha} (accepted: a number above 0). 0.2 is a common one.")
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(batch)))
    if batch.label.is_cuda:  # copied from page-locked memory, or the GPU would have to finish its work first
        order = order.pin_memory().to(batch.label.device, non_blocking=True)
    streams = {name: _blend(values, values[order], share) for name, values in batch.streams.items()}
    return replace(batch, streams=streams), MixedLabel(batch.label, batch.label[order], share)


def _blend(itself: Tensor, other: Tensor, share: float) -> Tensor:
    return torch.lerp(other.float(), itself.float(), share).round_().to(torch.uint8)
