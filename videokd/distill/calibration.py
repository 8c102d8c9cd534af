"""How much to trust a teacher: its own temperature, and its weight for each sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.distill.losses import full_precision, widen
from videokd.distill.mixup import GroundTruth, over_labels
from videokd.errors import ConfigError
from videokd.types import NO_LABEL

#: Temperatures between which `calibrate` looks.
LOWEST, HIGHEST = 0.05, 20.0


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """The temperature T at which softmax(z/T) gives the labels the highest likelihood.

    Guo et al. 2017, On Calibration of Modern Neural Networks. The loss is convex in 1/T, so the root of its derivative
    is found by bisection: nothing to tune, and no step that could diverge. A network that is always right, or worse than
    chance, has no such T: it gets the nearest end of the range from 0.05 to 20.

    Args:
        logits: [N, K], of clips that the network was not trained on; computed in float64.
        labels: int64 [N].

    Returns:
        T; divide the network's logits by it before they are fused.

    Raises:
        ConfigError: a logit is not finite.
        ValueError: the shapes do not fit each other, or there are no clips.

    >>> labels = torch.tensor([0, 0, 0, 1])  # right three times out of four
    >>> sure = torch.tensor([[6.0, 0.0]]).expand(4, 2)
    >>> round(calibrate(sure, labels), 3)  # 6/T = log 3
    5.461
    """
    if logits.ndim != 2 or logits.shape[:1] != labels.shape or not len(labels):
        raise ValueError(
            f"labels are {list(labels.shape)}, logits {list(logits.shape)} (accepted: [N] and [N, K], N ≥ 1)"
        )
    if not bool(logits.isfinite().all()):
        raise ConfigError("some logits are not finite (accepted: finite numbers). Train or evaluate the network again.")
    wide = logits.detach().double()
    of_label = wide.gather(1, labels[:, None]).squeeze(1)  # [N]

    def slope(sharpness: float) -> float:
        """The derivative of the loss by 1/T: mean of Σ p z − z_y."""
        expected = (F.softmax(sharpness * wide, dim=1) * wide).sum(dim=1)
        return float((expected - of_label).mean())

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(high) <= 0:
        return LOWEST
    if slope(low) >= 0:
        return HIGHEST
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


@torch.no_grad()
def confidence_weights(logits: Mapping[str, Tensor], label: GroundTruth) -> dict[str, Tensor]:
    """The weight of each teacher on each sample: the more, the lower its cross-entropy with the label.

    w_t = (1 − exp(CE_t) / Σ exp(CE)) / (n − 1) for n teachers (Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge
    Distillation, CA-MKD). They sum to 1 for each sample, and go to `fuse` as they are, or multiplied with fixed weights.
    A single teacher has weight 1.

    Args:
        logits: {teacher: [B, K]}, divided by their own temperatures where teachers are calibrated; any float dtype.
        label: int64 [B]; of a mixture, both labels' cross-entropies count by their shares. Without a label (-1) all teachers
            have the same weight.

    Returns:
        {teacher: float32 [B]}, without a graph.

    Raises:
        ConfigError: there are no teachers.

    >>> z = {"iframe": torch.tensor([[2.0, 0.0]]), "motion": torch.tensor([[0.0, 2.0]])}
    >>> {name: round(weight.item(), 2) for name, weight in confidence_weights(z, torch.tensor([0])).items()}
    {'iframe': 0.88, 'motion': 0.12}
    """
    if not logits:
        raise ConfigError("there are no teachers to weigh (accepted: the logits of one or more). Name a teacher.")
    if len(logits) == 1:
        return {name: torch.ones_like(widen(values[:, 0])) for name, values in logits.items()}
    with full_precision(next(iter(logits.values()))):
        losses = [_cross_entropies(values, label) for values in logits.values()]
        # exp(CE)/Σ exp(CE) is a softmax over the teachers: written so, a teacher far off does not overflow
        blame = F.softmax(torch.stack(losses), dim=0)  # [teachers, B]
        return dict(zip(logits, (1 - blame) / (len(logits) - 1), strict=True))


def _cross_entropies(logits: Tensor, label: GroundTruth) -> Tensor:
    """One for each sample, [B]."""
    wide = widen(logits)
    return over_labels(lambda label: F.cross_entropy(wide, label, reduction="none", ignore_index=NO_LABEL), label)
