"""Other ways than KL to follow the teachers' target; each may stand in the place of `kd_loss`.

As in `losses`: computed in float32 or wider, outside autocast; the target is detached here; T² is applied here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.distill.losses import check_same_shape, check_temperature, divergence, full_precision, widen
from videokd.distill.mixup import Label, over_labels
from videokd.types import NO_LABEL


def standardise(logits: Tensor) -> Tensor:
    """Each sample's logits with mean 0 and standard deviation 1 over the classes.

    Where both sides are standardised before they are divided by T, the student no longer has to match the size of
    the teachers' logits, only their shape (Sun et al. 2024, Logit Standardization in Knowledge Distillation; there
    T = 2 and a weight of 9 are common). The deviation is that of the population, as in the paper's equations.

    Args:
        logits: [B, K], any float dtype; computed in float32.

    Returns:
        [B, K], float32 (float64 for float64 logits); zeros where a sample's logits are all equal.

    >>> standardise(torch.tensor([[1.0, 3.0]]))
    tensor([[-1., 1.]])
    """
    with full_precision(logits):
        # 1e-8 keeps the gradient of a new classifier finite, whose logits may all be equal
        return F.layer_norm(widen(logits), logits.shape[1:], eps=1e-8)


def dist_loss(
    student: Tensor, target: Tensor, *, temperature: float, over_classes: float = 1.0, over_batch: float = 1.0
) -> Tensor:
    """How badly the student's predictions correlate with the target's, within samples and within classes.

    T² · (β · mean over samples of 1 − ρ(p, q) + γ · mean over classes of 1 − ρ(p, q)), p and q the predictions softened
    by T, ρ Pearson's correlation, over the classes of one sample and over the batch for one class (Huang et al. 2022, Knowledge
    Distillation from A Stronger Teacher: "inter" and "intra"). As in the authors' code 1e-8 is added to the product
    of the two norms, so that a class that nobody predicts weighs little.

    The second term sees a batch as a whole: on several ranks, or with accumulation, it sees what each of them has.

    Args:
        student: [B, K] logits, any float dtype; computed in float32.
        target: [B, K] fused logits of the teachers; no gradient flows into it.
        temperature: T > 0 (the authors: 1 on ImageNet, 4 on CIFAR).
        over_classes: β ≥ 0.
        over_batch: γ ≥ 0; the term is left out for a batch of one sample, which correlates with nothing.

    Returns:
        A scalar from 0 to 2 · T² · (β + γ).

    Raises:
        ValueError: the shapes differ, or temperature is not positive.

    >>> z = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 0.0]])
    >>> round(dist_loss(z, z, temperature=1.0).item(), 4)
    0.0
    """
    check_same_shape(student, target, names="student and target")
    check_temperature(temperature)
    with full_precision(student):
        p = F.softmax(widen(student) / temperature, dim=1)
        q = F.softmax(widen(target.detach()) / temperature, dim=1)
        loss = over_classes * (1 - _correlation(p, q, dim=1)).mean()
        if len(student) > 1:
            loss = loss + over_batch * (1 - _correlation(p, q, dim=0)).mean()
        return temperature**2 * loss


def _correlation(p: Tensor, q: Tensor, *, dim: int) -> Tensor:
    """Pearson's, along one dimension of [B, K]."""
    p = p - p.mean(dim=dim, keepdim=True)
    q = q - q.mean(dim=dim, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(p, dim=dim) * torch.linalg.vector_norm(q, dim=dim)
    return (p * q).sum(dim=dim) / (norms + 1e-8)


def dkd_loss(
    student: Tensor,
    target: Tensor,
    label: Label,
    *,
    temperature: float,
    target_class: float = 1.0,
    other_classes: float = 8.0,
) -> Tensor:
    """KL to the target in two parts, weighed apart: the labelled class against the rest, and the rest among themselves.

    T² · (α · KL(b_target ‖ b_student) + β · KL(r_target ‖ r_student)), mean over the batch, b = (p_y, 1 − p_y) and r the
    prediction over the classes other than y. `kd_loss` is the same with α = 1 and β = 1 − p_y of the target, which
    silences the second part just where the teachers are sure (Zhao et al. 2022, Decoupled Knowledge Distillation).

    Args:
        student: [B, K] logits, K ≥ 2, any float dtype; computed in float32.
        target: [B, K] fused logits of the teachers; no gradient flows into it.
        label: int64 [B]; of a mixture, both labels count by their shares. Where there is none (-1), the target's most
            probable class takes its place.
        temperature: T > 0.
        target_class: α ≥ 0.
        other_classes: β ≥ 0 (the authors: 0.5 on ImageNet, mostly 8 on CIFAR-100).

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: the shapes differ, there are fewer than two classes, or temperature is not positive.

    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> dkd_loss(z, z, torch.tensor([2]), temperature=4.0).item()
    0.0
    """
    check_same_shape(student, target, names="student and target")
    check_temperature(temperature)
    if student.shape[1] < 2:
        raise ValueError(f"student is {list(student.shape)} (accepted: [B, K], K ≥ 2)")

    def loss(label: Tensor) -> Tensor:
        label = torch.where(label == NO_LABEL, target.argmax(dim=1), label)
        both = [_decoupled(values / temperature, label) for values in (widen(student), widen(target.detach()))]
        (student_class, student_rest), (target_of_class, target_rest) = both
        in_target = target_class * divergence(student_class, target_of_class)
        return temperature**2 * (in_target + other_classes * divergence(student_rest, target_rest))

    with full_precision(student):
        return over_labels(loss, label)


def _decoupled(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the labelled class and of all others together [B, 2], and of the others alone [B, K − 1]."""
    is_label = F.one_hot(label, logits.shape[1]).bool()
    labelled = logits[is_label].unsqueeze(1)  # [B, 1]
    others = logits[~is_label].reshape(len(logits), -1)  # [B, K − 1]
    # log Σ exp of the others is the one logit that stands for them all: 1 − p_y is never computed by subtraction
    together = torch.cat([labelled, others.logsumexp(dim=1, keepdim=True)], dim=1)
    return F.log_softmax(together, dim=1), F.log_softmax(others, dim=1)
